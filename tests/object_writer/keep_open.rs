//! What handles of an unlinked or replaced file need is kept, up to a limit that files share.

use super::*;
use pailfs::base::error::{ErrorKind, Result};
use pailfs::embedded::{Fault, When};

const FILE_BYTES: u64 = 12 * MIB;

async fn try_read(file: &File, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut out = ReadBytes::default();
    file.read(&ReadStream::default(), offset, len as usize, &mut out)
        .await?;
    Ok(out.into_vec())
}

impl World {
    fn kept_bytes(&self) -> u64 {
        self.context.keep_open.kept_bytes()
    }
}

#[test]
fn what_does_not_fit_into_the_limit_is_not_fetched() {
    run(async {
        let world = World::start(64 * MIB).await;
        let contents = [0, 1, 2].map(|n| data(n, FILE_BYTES));
        let first = world.existing("0", &contents[0]).await;
        let second = world.existing("1", &contents[1]).await;
        let third = world.existing("2", &contents[2]).await;
        first.keep_for_handles().await.expect("kept");
        assert_eq!(world.kept_bytes(), FILE_BYTES);
        // What was kept is not counted again.
        first.keep_for_handles().await.expect("still kept");
        assert_eq!(world.kept_bytes(), FILE_BYTES);

        world.server.counts().reset();
        second.keep_for_handles().await.expect("no reason to fail");
        assert_eq!(world.server.counts().total(), 0, "nothing is fetched");
        for key in ["0", "1", "2"] {
            world.put(key, b"newer").await;
        }
        assert_same(&read(&first, 0, FILE_BYTES).await, &contents[0]);
        let error = try_read(&second, 0, 10).await.expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");

        drop(first);
        assert_eq!(world.kept_bytes(), 0);
        // Somebody else was faster: nothing can be kept, which is no failure either.
        third.keep_for_handles().await.expect("no reason to fail");
        assert_eq!(world.kept_bytes(), 0);
        let error = try_read(&third, 0, 10).await.expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    });
}

#[test]
fn only_what_is_not_here_counts() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(0, 20 * MIB);
        let file = world.existing("a", &content).await;
        file.write(0, &data(1, 6 * MIB)).await.expect("written");
        content[..6 * MIB as usize].copy_from_slice(&data(1, 6 * MIB));
        file.keep_for_handles().await.expect("kept");
        assert_eq!(world.kept_bytes(), 14 * MIB);
        world.put("a", b"newer").await;
        assert_same(&read(&file, 0, 20 * MIB).await, &content);
        // The last handle is closed.
        file.discard().await;
        assert_eq!(world.kept_bytes(), 0);
    });
}

#[test]
fn a_store_that_fails_is_asked_again_and_a_disk_that_fails_is_not_waited_for() {
    run(async {
        let world = World::start(64 * MIB).await;
        let content = data(0, FILE_BYTES);
        let file = world.existing("a", &content).await;
        let faults = world.server.faults();
        faults.inject(When::on(Operation::Get).for_ever(), Fault::Answer("AccessDenied"));
        let error = file.keep_for_handles().await.expect_err("not now");
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(world.kept_bytes(), 0);
        faults.clear();
        // A spool file cannot be made any more.
        let spool = world.context.spool.create_file().expect("made");
        let directory = world.context.spool.instance_dir();
        std::fs::remove_file(directory.join("files").join(spool.file_name())).expect("removed");
        std::fs::remove_dir(directory.join("files")).expect("empty");
        file.keep_for_handles().await.expect("no reason to fail");
        assert_same(&read(&file, 0, FILE_BYTES).await, &content);
        world.put("a", b"newer").await;
        let error = try_read(&file, 0, 10).await.expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    });
}

#[test]
fn an_unlinked_copy_for_which_there_is_no_room_does_not_keep_its_source() {
    run(async {
        let world = World::start(64 * MIB).await;
        let content = data(0, 20 * MIB);
        let from = world.existing("from", &content).await;
        let copy = world.new_file("copy");
        let range = pailfs::base::object::ByteRange::new(0, 20 * MIB);
        let hold: pailfs::object::file::Hold = Arc::new(());
        let held = Arc::downgrade(&hold);
        let copied = copy.take_copy(0, &from, range, hold).await.expect("copied");
        assert_eq!(copied, 20 * MIB);
        copy.unlinked();
        from.settle_copies().await.expect("nothing to wait for");
        assert!(held.upgrade().is_none(), "the source may go");
        // It is still there: read from it.
        assert_same(&read(&copy, 0, 20 * MIB).await, &content);
        // What may go at any time is not for others to name.
        let another = world.new_file("another");
        let copied = another
            .take_copy(0, &copy, range, Arc::new(()))
            .await
            .expect("asked");
        assert_eq!(copied, 0);
    });
}
