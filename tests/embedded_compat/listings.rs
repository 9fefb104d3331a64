//! Listings, both versions of the operation.

use crate::support::{BUCKET, Fixture, put, refused, run};
use aws_sdk_s3::Client;

const KEYS: [&str; 8] = ["a-b", "a/1", "a/2", "b", "c/x/1", "c/y", "c0", "d/e/f"];

async fn with_keys() -> Fixture {
    let s3 = Fixture::new().await;
    for key in KEYS {
        put(&s3, key, "1").await;
    }
    s3
}

#[derive(Clone, Copy, Default)]
struct Wanted<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    start_after: &'a str,
    /// 0 is S3's 1,000.
    page_size: i32,
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Keys, common prefixes, and the number of pages.
async fn list(s3: &Client, wanted: Wanted<'_>) -> (Vec<String>, Vec<String>, usize) {
    let (mut keys, mut prefixes, mut pages, mut token) = (Vec::new(), Vec::new(), 0, None);
    loop {
        let request = s3.list_objects_v2().bucket(BUCKET).prefix(wanted.prefix);
        let request = request
            .set_delimiter(some(wanted.delimiter))
            .set_start_after(some(wanted.start_after));
        let request = request.set_max_keys(Some(wanted.page_size).filter(|size| *size > 0));
        let page = request.set_continuation_token(token).send().await.unwrap();
        pages += 1;
        let count = page.contents().len() + page.common_prefixes().len();
        assert_eq!(page.key_count(), Some(count as i32));
        assert!(wanted.page_size == 0 || count <= wanted.page_size as usize);
        keys.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
        prefixes.extend(
            page.common_prefixes()
                .iter()
                .map(|prefix| prefix.prefix().unwrap().to_owned()),
        );
        if page.is_truncated() != Some(true) {
            return (keys, prefixes, pages);
        }
        token = Some(
            page.next_continuation_token
                .expect("a truncated page has a token"),
        );
    }
}

#[test]
fn prefix_delimiter_and_start() {
    run(async {
        let s3 = with_keys().await;
        let none = Wanted::default();
        let (keys, prefixes, _) = list(&s3, none).await;
        assert_eq!(keys, KEYS);
        assert!(prefixes.is_empty());
        let (keys, prefixes, _) = list(
            &s3,
            Wanted {
                delimiter: "/",
                ..none
            },
        )
        .await;
        assert_eq!(
            (keys, prefixes),
            (
                vec!["a-b".into(), "b".into(), "c0".into()],
                vec!["a/".into(), "c/".into(), "d/".into()]
            )
        );
        let (keys, prefixes, _) = list(
            &s3,
            Wanted {
                prefix: "c/",
                delimiter: "/",
                ..none
            },
        )
        .await;
        assert_eq!((keys, prefixes), (vec!["c/y".into()], vec!["c/x/".into()]));
        let (keys, prefixes, _) = list(
            &s3,
            Wanted {
                prefix: "a",
                delimiter: "/",
                ..none
            },
        )
        .await;
        assert_eq!((keys, prefixes), (vec!["a-b".into()], vec!["a/".into()]));
        let (keys, _, _) = list(
            &s3,
            Wanted {
                start_after: "b",
                ..none
            },
        )
        .await;
        assert_eq!(keys, KEYS[4..]);
    });
}

#[test]
fn delimiters_may_be_long() {
    run(async {
        let s3 = with_keys().await;
        let (keys, prefixes, _) = list(
            &s3,
            Wanted {
                delimiter: "/x/",
                ..Wanted::default()
            },
        )
        .await;
        assert_eq!(prefixes, ["c/x/"]);
        assert_eq!(keys.len(), 7);
    });
}

#[test]
fn small_pages_are_complete_and_repeat_nothing() {
    run(async {
        let s3 = with_keys().await;
        for page_size in 1..4 {
            let (keys, prefixes, _) = list(
                &s3,
                Wanted {
                    delimiter: "/",
                    page_size,
                    ..Wanted::default()
                },
            )
            .await;
            assert_eq!(keys, ["a-b", "b", "c0"], "pages of {page_size}");
            assert_eq!(prefixes, ["a/", "c/", "d/"], "pages of {page_size}");
        }
    });
}

#[test]
fn entries_have_etag_size_and_time() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "k", "12").await;
        let page = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        let head = s3.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(page.contents()[0].e_tag(), Some(etag.as_str()));
        assert_eq!(page.contents()[0].size(), Some(2));
        assert_eq!(page.contents()[0].last_modified(), head.last_modified());
    });
}

#[test]
fn the_first_version_pages_by_marker() {
    run(async {
        let s3 = with_keys().await;
        for delimiter in [None, Some("/")] {
            let (mut names, mut marker) = (Vec::new(), None::<String>);
            loop {
                let request = s3.list_objects().bucket(BUCKET).max_keys(2).set_marker(marker);
                let page = request
                    .set_delimiter(delimiter.map(str::to_owned))
                    .send()
                    .await
                    .unwrap();
                let keys: Vec<String> = page
                    .contents()
                    .iter()
                    .filter_map(|o| o.key().map(str::to_owned))
                    .collect();
                assert_eq!(
                    page.next_marker().is_some(),
                    delimiter.is_some() && page.is_truncated() == Some(true)
                );
                marker = page
                    .next_marker()
                    .map(str::to_owned)
                    .or_else(|| keys.last().cloned());
                names.extend(keys);
                names.extend(
                    page.common_prefixes()
                        .iter()
                        .filter_map(|p| p.prefix().map(str::to_owned)),
                );
                if page.is_truncated() != Some(true) {
                    break;
                }
            }
            names.sort_unstable();
            let expected: &[&str] = if delimiter.is_some() {
                &["a-b", "a/", "b", "c/", "c0", "d/"]
            } else {
                &KEYS
            };
            assert_eq!(names, expected);
        }
    });
}

#[test]
fn long_listings_come_in_pages_of_a_thousand() {
    run(async {
        let s3 = Fixture::new().await;
        let workers = (0..16).map(|worker| {
            let client = s3.client.clone();
            tokio::spawn(async move {
                for number in (worker..2500).step_by(16) {
                    put(&client, &format!("dir{:02}/k{number:05}", number % 37), "x").await;
                }
            })
        });
        for worker in futures_util::future::join_all(workers).await {
            worker.unwrap();
        }
        let (keys, _, pages) = list(&s3, Wanted::default()).await;
        assert_eq!((keys.len(), pages), (2500, 3));
        assert!(keys.is_sorted());
        let (_, prefixes, pages) = list(
            &s3,
            Wanted {
                delimiter: "/",
                ..Wanted::default()
            },
        )
        .await;
        assert_eq!((prefixes.len(), pages), (37, 1));
    });
}

#[test]
fn wrong_arguments_are_refused() {
    run(async {
        let s3 = Fixture::new().await;
        refused(s3.list_objects_v2().bucket(BUCKET).max_keys(-1).send().await, 400);
        refused(
            s3.list_objects_v2()
                .bucket(BUCKET)
                .continuation_token("zz")
                .send()
                .await,
            400,
        );
        put(&s3, "k", "x").await;
        let page = s3
            .list_objects_v2()
            .bucket(BUCKET)
            .max_keys(0)
            .send()
            .await
            .unwrap();
        assert_eq!((page.key_count(), page.is_truncated()), (Some(0), Some(false)));
    });
}
