//! The content of a file, with the real client, over HTTP, against the embedded server.

mod appends;
mod conflicts;
mod copies;
mod faults;
mod headers;
mod keep_open;
mod random;
mod small;
mod spool_limit;
mod streaming;

use pailfs::base::attributes::{Attributes, MetadataFormat};
use pailfs::base::checksum::Crc32c;
use pailfs::base::mount_config::OnConflict;
use pailfs::base::object::{Condition, ObjectHeaders, ObjectId, ObjectInfo, Version};
use pailfs::base::read_bytes::ReadBytes;
use pailfs::embedded::{Operation, Server, Store, StoreOptions};
use pailfs::object::budget::Budget;
use pailfs::object::file::{Creation, File, FileContext, KeepOpen};
use pailfs::object::reader::{ReadStream, Reader};
use pailfs::rt;
use pailfs::s3::types::{GetRequest, PutRequest};
use pailfs::s3::{Capabilities, Client, ClientOptions, PathStyle, StaticCredentials};
use pailfs::spool::{Conflict, Leftovers, Spool};
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const STALL: Duration = Duration::from_secs(20);
/// No test takes longer; one that hangs fails.
const DEADLINE: Duration = Duration::from_secs(200);
const BUCKET: &str = "bucket";
const MIB: u64 = 1 << 20;
const KEEP_OPEN_LIMIT_BYTES: u64 = 16 * MIB;

struct World {
    server: Server,
    context: Arc<FileContext>,
    state_dir: tempfile::TempDir,
}

impl World {
    async fn start(budget_bytes: u64) -> Self {
        let store = Store::open(StoreOptions::in_memory()).expect("a store in memory opens");
        let server = Server::serve(store, (Ipv4Addr::LOCALHOST, 0).into())
            .await
            .expect("a free port");
        let client = client_of(&server, STALL).await;
        client.create_bucket(BUCKET).await.expect("the bucket is made");
        let state_dir = tempfile::tempdir().expect("a temporary directory");
        let (spool, _) = open_spool(state_dir.path());
        let context = context_of(client, budget_bytes, spool);
        server.counts().reset();
        Self {
            server,
            context,
            state_dir,
        }
    }

    /// The same store and spool, with another way to treat conflicts.
    fn on_conflict(&mut self, on_conflict: OnConflict) {
        let context = &self.context;
        let (client, budget) = (context.client.clone(), context.budget.limit_bytes());
        self.context = context_with(client, budget, context.spool.clone(), on_conflict);
    }

    fn create(&self, key: &str, creation: Creation) -> Arc<File> {
        let id = ObjectId::new(BUCKET, key);
        File::create(
            &self.context,
            id,
            creation,
            ObjectHeaders::default(),
            Attributes::default(),
        )
    }

    fn new_file(&self, key: &str) -> Arc<File> {
        self.create(key, Creation::Plain)
    }

    async fn put(&self, key: &str, data: &[u8]) -> Version {
        let request = PutRequest {
            id: ObjectId::new(BUCKET, key),
            body: bytes::Bytes::copy_from_slice(data).into(),
            checksum: Crc32c::of(data),
            condition: Condition::None,
            headers: ObjectHeaders::default(),
        };
        self.context
            .client
            .put(&request)
            .await
            .expect("the object is stored")
    }

    /// A file of an object with this content; the counts begin anew.
    async fn existing(&self, key: &str, data: &[u8]) -> Arc<File> {
        let version = self.put(key, data).await;
        let file = self.open(key, version);
        self.server.counts().reset();
        file
    }

    fn open(&self, key: &str, version: Version) -> Arc<File> {
        let id = ObjectId::new(BUCKET, key);
        let (client, budget) = (self.context.client.clone(), self.context.budget.clone());
        let reader = Reader::new(client, budget, id, version);
        File::existing(
            &self.context,
            reader,
            ObjectHeaders::default(),
            Attributes::default(),
        )
    }

    async fn head(&self, key: &str) -> ObjectInfo {
        self.context
            .client
            .head(&ObjectId::new(BUCKET, key))
            .await
            .expect("the object is there")
    }

    async fn exists(&self, key: &str) -> bool {
        self.context
            .client
            .head(&ObjectId::new(BUCKET, key))
            .await
            .is_ok()
    }

    async fn stored(&self, key: &str) -> Vec<u8> {
        let request = GetRequest {
            id: ObjectId::new(BUCKET, key),
            range: None,
            if_match: None,
            version_id: None,
        };
        let mut reply = self
            .context
            .client
            .get(&request)
            .await
            .expect("the object is there");
        let mut data = Vec::new();
        while let Some(piece) = reply.body.next().await.expect("the body arrives") {
            data.extend_from_slice(&piece);
        }
        data
    }

    fn count(&self, operation: Operation) -> u64 {
        self.server.counts().of(operation)
    }

    fn conflicts(&self) -> Vec<Conflict> {
        let conflicts = self.context.spool.conflicts().expect("the conflicts are listed");
        conflicts.into_iter().map(|(_, conflict)| conflict).collect()
    }

    /// What the next mount of this source finds, once this one is gone.
    async fn leftovers(self) -> (Leftovers, Server, tempfile::TempDir, Arc<FileContext>) {
        let Self {
            server,
            context,
            state_dir,
        } = self;
        let (client, budget) = (context.client.clone(), context.budget.limit_bytes());
        let weak = Arc::downgrade(&context.spool);
        drop(context);
        wait_until("the spool is closed", || weak.strong_count() == 0).await;
        let (spool, leftovers) = open_spool(state_dir.path());
        let context = context_of(client, budget, spool);
        (leftovers, server, state_dir, context)
    }

    async fn expect_no_uploads(&self) {
        let server = &self.server;
        wait_until("created uploads are completed or aborted", || {
            let of = |operation| server.counts().of(operation);
            of(Operation::CreateUpload) <= of(Operation::Complete) + of(Operation::Abort)
        })
        .await;
    }

    async fn expect_all_memory_free(&self) {
        wait_until("all memory is free", || self.context.budget.used_bytes() == 0).await;
    }
}

fn context_of(client: Client, budget_bytes: u64, spool: Arc<Spool>) -> Arc<FileContext> {
    context_with(client, budget_bytes, spool, OnConflict::Keep)
}

fn context_with(
    client: Client,
    budget_bytes: u64,
    spool: Arc<Spool>,
    on_conflict: OnConflict,
) -> Arc<FileContext> {
    Arc::new(FileContext {
        client,
        budget: Budget::new(budget_bytes, STALL),
        disk_cache: None,
        spool,
        metadata_format: MetadataFormat::Aws,
        stall_timeout: STALL,
        on_conflict,
        keep_open: KeepOpen::new(KEEP_OPEN_LIMIT_BYTES),
    })
}

fn open_spool(state_dir: &Path) -> (Arc<Spool>, Leftovers) {
    Spool::open(state_dir, "s3://bucket/").expect("the spool opens")
}

async fn client_of(server: &Server, stall_timeout: Duration) -> Client {
    let store = StoreOptions::in_memory();
    let options = ClientOptions {
        endpoint_url: Some(server.endpoint_url()),
        region: Some(store.region),
        path_style: PathStyle::Always,
        credentials: Some(StaticCredentials {
            access_key_id: store.access_key,
            secret_access_key: store.secret_key,
            session_token: None,
        }),
        stall_timeout,
        // Requests are counted: none of them finds out what the endpoint does.
        capabilities: Capabilities::s3(),
        ..ClientOptions::default()
    };
    Client::connect(options, Arc::default())
        .await
        .expect("the options are right")
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waited = rt::timeout(STALL, async {
        while !is_so() {
            rt::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(waited.is_ok(), "not so after {STALL:?}: {what}");
}

/// Data in which every aligned word tells its place and its version.
fn data(version: u64, len: u64) -> Vec<u8> {
    let mut data = vec![0; len.next_multiple_of(8) as usize];
    for (n, word) in data.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(
            &(n as u64 ^ (version << 40))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes(),
        );
    }
    data.truncate(len as usize);
    data
}

async fn read(file: &File, offset: u64, len: u64) -> Vec<u8> {
    let mut out = ReadBytes::default();
    let stream = ReadStream::default();
    file.read(&stream, offset, len as usize, &mut out)
        .await
        .expect("the file is readable");
    out.into_vec()
}

/// Without the megabytes of an `assert_eq` on vectors.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "length");
    if let Some(at) = found.iter().zip(expected).position(|(one, other)| one != other) {
        panic!(
            "differs at byte {at} of {}: {} instead of {}",
            expected.len(),
            found[at],
            expected[at]
        );
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = rt::build().expect("a runtime");
    runtime.block_on(async {
        rt::timeout(DEADLINE, test)
            .await
            .expect("the test ends within its deadline");
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}
