//! Pieces of a GET that are given up before it is sent, while somebody waits for others of it.

use super::{DEADLINE, World, data, part};
use futures_util::poll;
use pailfs::base::limits::{KIB, MIB};
use pailfs::object::reader::ReadStream;
use pailfs::rt;

/// On one thread: the GET's task does not begin before this waits for the first time.
#[tokio::test]
async fn a_get_whose_beginning_was_given_up_brings_the_rest() {
    const MEMORY: u64 = 32 * MIB;
    for memory_stays_short in [false, true] {
        let world = World::start(MEMORY).await;
        let expected = data(1, 8 * MIB);
        let reader = world.reader("object", &expected).await;
        let (mut all, mut end) = (Vec::new(), Vec::new());
        let streams = [ReadStream::default(), ReadStream::default()];
        // One GET, of two pieces: these end at whole MiB.
        let mut interrupted = Box::pin(reader.read(&streams[0], MIB - 1000, 2000, &mut all));
        assert!(poll!(&mut interrupted).is_pending());
        let mut reading = Box::pin(reader.read(&streams[1], MIB + 500, 100, &mut end));
        assert!(poll!(&mut reading).is_pending());
        drop(interrupted);
        // All that nobody waits for.
        let others = world
            .budget
            .try_acquire(MEMORY - 64 * KIB)
            .expect("can be taken away");
        let others = memory_stays_short.then_some(others);
        rt::timeout(DEADLINE, reading)
            .await
            .expect("the read does not hang")
            .expect("the read succeeds");
        assert!(end == part(&expected, MIB + 500, 100));
        assert_eq!(world.gets(), 1);
        drop(others);
    }
}
