//! What programs do, small enough to try every way in which it can go wrong.

use crate::in_process::driver::{Descriptor, Driver, Outcome};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

/// Objects by key; directories are keys that end in `/`.
pub type Contents = BTreeMap<String, Vec<u8>>;
type Act = Box<dyn for<'a> Fn(&'a Driver) -> Pin<Box<dyn Future<Output = Outcome<()>> + 'a>>>;

pub struct Scenario {
    pub name: &'static str,
    pub before: Contents,
    pub after: Contents,
    pub act: Act,
    /// Carrying it out again after it was carried out comes to the same.
    pub repeatable: bool,
    /// A key that may be there when it was cut off.
    pub passing: Option<&'static str>,
    /// What success means may come a little later: nobody sees the difference through the mount.
    pub comes_later: bool,
}

fn contents(entries: &[(&str, &[u8])]) -> Contents {
    entries
        .iter()
        .map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec()))
        .collect()
}

fn scenario(
    name: &'static str,
    before: &[(&str, &[u8])],
    after: &[(&str, &[u8])],
    act: impl for<'a> Fn(&'a Driver) -> Pin<Box<dyn Future<Output = Outcome<()>> + 'a>> + 'static,
) -> Scenario {
    Scenario {
        name,
        before: contents(before),
        after: contents(after),
        act: Box::new(act),
        repeatable: true,
        passing: None,
        comes_later: false,
    }
}

/// Bytes that tell their place.
pub fn pattern(len: usize, salt: u64) -> Vec<u8> {
    crate::in_process::random::Random::new(salt).bytes(len)
}

const SMALL: &[u8] = b"the quick brown fox jumps over the lazy dog";
const OLD: &[u8] = b"an older version of the same file, a little longer than the other";
/// More than a mount of these tests puts with one request.
pub const LARGE: usize = (12 << 20) + 4_321;

/// A check inside of an act: wrong bytes are worse than any error.
fn same(found: &[u8], expected: &[u8], what: &str) {
    assert!(
        found == expected,
        "{what}: {} bytes, other than the {} expected",
        found.len(),
        expected.len()
    );
}

pub fn writing() -> Vec<Scenario> {
    let appended = [OLD, SMALL].concat();
    let mut overwritten = OLD.to_vec();
    overwritten[5..10].copy_from_slice(b"12345");
    vec![
        scenario("create", &[], &[("f", SMALL)], |driver| {
            Box::pin(driver.write_file("f", libc::O_CREAT | libc::O_TRUNC, SMALL))
        }),
        scenario(
            "create exclusively",
            &[("other", OLD)],
            &[("other", OLD), ("f", SMALL)],
            |driver| {
                Box::pin(async move {
                    let written = driver.write_file("f", libc::O_CREAT | libc::O_EXCL, SMALL).await;
                    // Carried out again after it had happened: that is known from the answer.
                    if written == Err(libc::EEXIST) && driver.read_file("f").await.as_deref() == Ok(SMALL) {
                        return Ok(());
                    }
                    written
                })
            },
        ),
        scenario("create an empty file", &[], &[("f", b"")], |driver| {
            Box::pin(driver.write_file("f", libc::O_CREAT | libc::O_TRUNC, b""))
        }),
        scenario("replace", &[("f", OLD)], &[("f", SMALL)], |driver| {
            Box::pin(driver.write_file("f", libc::O_CREAT | libc::O_TRUNC, SMALL))
        }),
        scenario(
            "overwrite in place",
            &[("f", OLD)],
            &[("f", &overwritten)],
            |driver| {
                Box::pin(async move {
                    let descriptor = driver.open("f", libc::O_RDWR, 0).await?;
                    let written = driver.write(&descriptor, 5, b"12345").await;
                    let closed = driver.close(descriptor).await;
                    written.and(closed)
                })
            },
        ),
        Scenario {
            repeatable: false,
            ..scenario("append", &[("f", OLD)], &[("f", &appended)], |driver| {
                Box::pin(driver.write_file("f", libc::O_APPEND, SMALL))
            })
        },
        scenario("truncate", &[("f", OLD)], &[("f", &OLD[..7])], |driver| {
            Box::pin(driver.truncate("f", 7))
        }),
        scenario(
            "copy a range into another file",
            &[("f", OLD), ("g", SMALL)],
            &[("f", OLD), ("g", &[&SMALL[..3], OLD].concat())],
            |driver| Box::pin(copy_into(driver, "g", libc::O_RDWR, 3, OLD.len())),
        ),
        scenario(
            "punch a hole and reserve",
            &[("f", OLD)],
            &[("f", &[&OLD[..2], &[0; 4], &OLD[6..], &[0; 10]].concat())],
            |driver| {
                Box::pin(async move {
                    let descriptor = driver.open("f", libc::O_RDWR, 0).await?;
                    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    let punched = driver.allocate(&descriptor, 2, 4, punch).await;
                    let reserved = driver.allocate(&descriptor, 0, OLD.len() + 10, 0).await;
                    let closed = driver.close(descriptor).await;
                    punched.and(reserved).and(closed)
                })
            },
        ),
        // What was synced is in the bucket when the rest fails: a state of its own.
        Scenario {
            passing: Some("f"),
            ..scenario("write, sync, write, close", &[], &[("f", &appended)], |driver| {
                Box::pin(async move {
                    let descriptor = driver
                        .open("f", libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY, 0o644)
                        .await?;
                    let written = driver.write(&descriptor, 0, OLD).await;
                    let synced = driver.fsync(&descriptor).await;
                    let more = driver.write(&descriptor, OLD.len(), SMALL).await;
                    let closed = driver.close(descriptor).await;
                    written.and(more).and(closed).and(synced)
                })
            })
        },
    ]
}

/// All of `f` to a place in `to`, as `cp` does it.
async fn copy_into(driver: &Driver, to: &str, flags: i32, offset: usize, len: usize) -> Outcome<()> {
    let source = driver.open("f", libc::O_RDONLY, 0).await?;
    let copied = match driver.open(to, flags, 0o644).await {
        Ok(target) => {
            let copied = driver.copy_range((&source, 0), (&target, offset), len).await;
            let closed = driver.close(target).await;
            copied.and_then(|copied| closed.map(|()| assert_eq!(copied, len, "all of it")))
        }
        Err(error) => Err(error),
    };
    let closed = driver.close(source).await;
    copied.and(closed)
}

pub fn large() -> Vec<Scenario> {
    let data = pattern(LARGE, 1);
    let copied = data.clone();
    let changed = {
        let mut changed = data.clone();
        changed[100..105].copy_from_slice(b"12345");
        changed
    };
    let act = data.clone();
    let source = data.clone();
    vec![
        scenario("stream a large file", &[], &[("f", &data)], move |driver| {
            let data = act.clone();
            Box::pin(async move { driver.write_file("f", libc::O_CREAT | libc::O_TRUNC, &data).await })
        }),
        scenario(
            "copy a large file",
            &[("f", &data)],
            &[("f", &data), ("g", &copied)],
            move |driver| {
                let source = source.clone();
                Box::pin(async move {
                    let data = driver.read_file("f").await?;
                    same(&data, &source, "the large file");
                    driver.write_file("g", libc::O_CREAT | libc::O_TRUNC, &data).await
                })
            },
        ),
        scenario(
            "copy a large file inside the store",
            &[("f", &data)],
            &[("f", &data), ("g", &data)],
            |driver| {
                let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY;
                Box::pin(copy_into(driver, "g", flags, 0, LARGE))
            },
        ),
        scenario(
            "change a large file",
            &[("f", &data)],
            &[("f", &changed)],
            |driver| {
                Box::pin(async move {
                    let descriptor = driver.open("f", libc::O_RDWR, 0).await?;
                    let written = driver.write(&descriptor, 100, b"12345").await;
                    let closed = driver.close(descriptor).await;
                    written.and(closed)
                })
            },
        ),
    ]
}

/// Of these mounts: the store copies more in parts.
pub const COPIED_AT_ONCE: u64 = 10 << 20;

/// What the store copies in two parts.
pub fn copied_in_parts() -> Vec<Scenario> {
    let data = pattern(COPIED_AT_ONCE as usize + 1_000, 4);
    let appended = [&data, SMALL].concat();
    vec![
        scenario(
            "rename a large file",
            &[("f", &data)],
            &[("g", &data)],
            |driver| Box::pin(driver.rename("f", "g", false)),
        ),
        scenario(
            "rename a directory with a large file",
            &[("d/", b""), ("d/f", &data), ("d/small", SMALL)],
            &[("e/", b""), ("e/f", &data), ("e/small", SMALL)],
            |driver| Box::pin(driver.rename("d", "e", false)),
        ),
        scenario(
            "change the mode of a large file",
            &[("f", &data)],
            &[("f", &data)],
            |driver| {
                Box::pin(async move {
                    driver.chmod("f", 0o600).await?;
                    let descriptor = driver.open("f", libc::O_RDWR, 0).await?;
                    let synced = driver.fsync(&descriptor).await;
                    let closed = driver.close(descriptor).await;
                    synced.and(closed)
                })
            },
        ),
        Scenario {
            repeatable: false,
            ..scenario(
                "append to a large file",
                &[("f", &data)],
                &[("f", &appended)],
                |driver| Box::pin(driver.write_file("f", libc::O_APPEND, SMALL)),
            )
        },
        scenario(
            "shorten a large file",
            &[("f", &appended)],
            &[("f", &data)],
            |driver| Box::pin(driver.truncate("f", COPIED_AT_ONCE as usize + 1_000)),
        ),
        scenario(
            "copy a large file inside the store, in parts",
            &[("f", &data)],
            &[("f", &data), ("g", &data)],
            |driver| {
                let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY;
                let len = COPIED_AT_ONCE as usize + 1_000;
                Box::pin(copy_into(driver, "g", flags, 0, len))
            },
        ),
    ]
}

/// What an open handle reads: its file, or an error. (Asked for again, it may be the newer one.)
async fn read_open(driver: &Driver, reader: &Descriptor) {
    if let Ok(found) = driver.read(reader, 0, OLD.len()).await {
        assert!(found == OLD || found == SMALL, "bytes of no version");
    }
}

/// Files that lose their name while a handle has them.
pub fn open_files() -> Vec<Scenario> {
    vec![
        scenario(
            "rename over an open file",
            &[("x", SMALL), ("y", OLD)],
            &[("y", SMALL)],
            |driver| {
                Box::pin(async move {
                    let reader = driver.open("y", libc::O_RDONLY, 0).await?;
                    let renamed = driver.rename("x", "y", false).await;
                    read_open(driver, &reader).await;
                    driver.close(reader).await.and(renamed)
                })
            },
        ),
        // Its object goes with the last handle, and no program waits for that.
        Scenario {
            comes_later: true,
            ..scenario("unlink an open file", &[("f", OLD)], &[], |driver| {
                Box::pin(async move {
                    let reader = driver.open("f", libc::O_RDONLY, 0).await?;
                    let unlinked = driver.unlink("f").await;
                    read_open(driver, &reader).await;
                    driver.close(reader).await?;
                    unlinked?;
                    assert!(driver.stat("f").await.is_err(), "it is hidden");
                    Ok(())
                })
            })
        },
        Scenario {
            passing: Some("f"),
            ..scenario(
                "unlink an open file and make it anew",
                &[("f", OLD)],
                &[("f", SMALL)],
                |driver| {
                    Box::pin(async move {
                        let reader = match driver.open("f", libc::O_RDONLY, 0).await {
                            Err(libc::ENOENT) => None,
                            opened => Some(opened?),
                        };
                        let unlinked = match &reader {
                            Some(_) => driver.unlink("f").await,
                            None => Ok(()),
                        };
                        let flags = libc::O_CREAT | libc::O_TRUNC;
                        let written = driver.write_file("f", flags, SMALL).await;
                        if let Some(reader) = reader {
                            read_open(driver, &reader).await;
                            driver.close(reader).await?;
                        }
                        unlinked.and(written)
                    })
                },
            )
        },
        scenario(
            "change attributes and rename",
            &[("x", SMALL)],
            &[("y", SMALL)],
            |driver| {
                Box::pin(async move {
                    match driver.chmod("x", 0o600).await {
                        // It was renamed already.
                        Err(libc::ENOENT) => return driver.stat("y").await.map(drop),
                        changed => changed?,
                    }
                    driver.rename("x", "y", false).await
                })
            },
        ),
    ]
}

pub fn names() -> Vec<Scenario> {
    let tree: &[(&str, &[u8])] = &[
        ("d/", b""),
        ("d/a", b"one"),
        ("d/b", b"two"),
        ("d/sub/", b""),
        ("d/sub/c", b"three"),
        ("x", SMALL),
    ];
    let moved: &[(&str, &[u8])] = &[
        ("e/", b""),
        ("e/a", b"one"),
        ("e/b", b"two"),
        ("e/sub/", b""),
        ("e/sub/c", b"three"),
        ("x", SMALL),
    ];
    vec![
        scenario("mkdir", &[("x", SMALL)], &[("x", SMALL), ("d/", b"")], |driver| {
            Box::pin(driver.mkdir("d", 0o755))
        }),
        scenario("rmdir", &[("x", SMALL), ("d/", b"")], &[("x", SMALL)], |driver| {
            Box::pin(driver.rmdir("d"))
        }),
        scenario("unlink", &[("x", SMALL), ("y", OLD)], &[("x", SMALL)], |driver| {
            Box::pin(driver.unlink("y"))
        }),
        scenario("symlink", &[], &[("l", b"a target")], |driver| {
            Box::pin(driver.symlink("l", "a target"))
        }),
        scenario(
            "rename",
            &[("d/", b""), ("d/x", SMALL)],
            &[("d/", b""), ("d/y", SMALL)],
            |driver| Box::pin(driver.rename("d/x", "d/y", false)),
        ),
        scenario(
            "rename over",
            &[("x", SMALL), ("y", OLD)],
            &[("y", SMALL)],
            |driver| Box::pin(driver.rename("x", "y", false)),
        ),
        scenario(
            "rename without replacing",
            &[("x", SMALL)],
            &[("y", SMALL)],
            |driver| {
                Box::pin(async move {
                    let renamed = driver.rename("x", "y", true).await;
                    // Cut off between its copy and its delete, it has left both: the user removes one.
                    if renamed == Err(libc::EEXIST) && driver.read_file("y").await.as_deref() == Ok(SMALL) {
                        return driver.unlink("x").await;
                    }
                    renamed
                })
            },
        ),
        scenario("rename a directory", tree, moved, |driver| {
            Box::pin(driver.rename("d", "e", false))
        }),
        scenario("chmod", &[("x", SMALL)], &[("x", SMALL)], |driver| {
            Box::pin(async move {
                driver.chmod("x", 0o600).await?;
                let mode = driver.stat("x").await?.mode & 0o7777;
                assert_eq!(mode, 0o600, "the mode that was set");
                Ok(())
            })
        }),
        Scenario {
            passing: Some("x.new"),
            ..scenario("save as editors do", &[("x", OLD)], &[("x", SMALL)], |driver| {
                Box::pin(async move {
                    driver
                        .write_file("x.new", libc::O_CREAT | libc::O_TRUNC, SMALL)
                        .await?;
                    driver.rename("x.new", "x", false).await
                })
            })
        },
    ]
}

/// Reads one file of that length.
pub fn read_of(len: usize) -> Scenario {
    let content = pattern(len, 3);
    let expected = content.clone();
    scenario("read", &[("f", &content)], &[("f", &content)], move |driver| {
        let expected = expected.clone();
        Box::pin(async move {
            let found = driver.read_file("f").await?;
            same(&found, &expected, "the file");
            Ok(())
        })
    })
}

pub fn reading() -> Vec<Scenario> {
    let files: Vec<(String, Vec<u8>)> = (0..20)
        .map(|number| {
            (
                format!("d/file {number:02}"),
                pattern(number * 100, number as u64),
            )
        })
        .collect();
    let copies = files.clone();
    let entries: Vec<(&str, &[u8])> = copies
        .iter()
        .map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
        .collect();
    let medium = pattern(700_000, 3);
    vec![
        read_of(medium.len()),
        scenario("list and read", &entries, &entries, move |driver| {
            let files = files.clone();
            Box::pin(async move {
                let names: Vec<String> = driver.list("d", true).await?.into_keys().collect();
                let expected: Vec<&str> = files.iter().map(|(key, _)| &key[2..]).collect();
                assert_eq!(names, expected, "the names in the directory");
                for (key, bytes) in files.iter().step_by(7) {
                    same(&driver.read_file(key).await?, bytes, key);
                }
                Ok(())
            })
        }),
        scenario(
            "copy",
            &[("f", &medium)],
            &[("f", &medium), ("g", &medium)],
            |driver| {
                Box::pin(async move {
                    let data = driver.read_file("f").await?;
                    driver.write_file("g", libc::O_CREAT | libc::O_TRUNC, &data).await
                })
            },
        ),
    ]
}
