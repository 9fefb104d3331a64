//! A peer that follows a script, over a connection in memory.

use pailfs::rt;
use pailfs::s3::Dialer;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the peer does with one request.
pub enum Step {
    /// The connection cannot be made.
    Refuse,
    /// Answers with these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Answers with these bytes and breaks the connection.
    AnswerAndBreak(Vec<u8>),
    /// Answers with these bytes (perhaps none) and falls silent.
    AnswerAndHang(Vec<u8>),
}

/// The peer: a script, and what it has seen.
#[derive(Clone, Default)]
pub struct Peer {
    steps: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Arc::new(Mutex::new(steps.into_iter().collect())),
            seen: Arc::default(),
        }
    }

    fn next(&self) -> Option<Step> {
        self.steps.lock().expect("no panic").pop_front()
    }

    /// The heads of all requests so far, in lower case but for the first line.
    pub fn seen(&self) -> Vec<String> {
        assert!(
            self.steps.lock().expect("no panic").is_empty(),
            "the script was not played to its end"
        );
        self.seen.lock().expect("no panic").clone()
    }

    pub fn dialer(&self) -> Dialer {
        let peer = self.clone();
        Dialer::new(move || {
            let peer = peer.clone();
            async move {
                if matches!(peer.steps.lock().expect("no panic").front(), Some(Step::Refuse)) {
                    peer.next();
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                let (ours, theirs) = tokio::io::duplex(64 << 10);
                drop(rt::spawn(async move {
                    // A client that hangs up is no failure of the peer.
                    let _ = peer.serve(ours).await;
                }));
                Ok(theirs)
            }
        })
    }

    async fn serve(&self, mut stream: DuplexStream) -> std::io::Result<()> {
        while let Some(head) = read_request(&mut stream).await? {
            self.seen.lock().expect("no panic").push(head);
            match self.next() {
                Some(Step::Answer(bytes)) => stream.write_all(&bytes).await?,
                Some(Step::AnswerAndBreak(bytes)) => return stream.write_all(&bytes).await,
                Some(Step::AnswerAndHang(bytes)) => {
                    stream.write_all(&bytes).await?;
                    rt::sleep(Duration::from_secs(1_000_000)).await;
                }
                Some(Step::Refuse) | None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Reads one request with its body; returns its head, or `None` at the end of the connection.
async fn read_request(stream: &mut DuplexStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (first, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
    let head = format!("{first}\r\n{headers}");
    let length = header(&head, "content-length")
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(head))
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().find(|line| {
        line.split_once(':')
            .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
    })?;
    line.split_once(':').map(|(_, value)| value.trim())
}

pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = if headers.to_ascii_lowercase().contains("content-length") {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    format!("HTTP/1.1 {status}\r\nx-amz-request-id: R1\r\n{length}{headers}\r\n{body}").into_bytes()
}
