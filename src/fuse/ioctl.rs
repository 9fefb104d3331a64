//! The one ioctl(2) that is answered: a step of bringing a file into the disk cache.

use super::handlers::Handlers;
use crate::fs::warm::{COMMAND, Step};
use fuser::{Errno, FileHandle, ReplyIoctl};

impl Handlers {
    pub(super) fn answer_ioctl(&self, handle: FileHandle, command: u32, sent: &[u8], reply: ReplyIoctl) {
        let step = Step::decode(sent).filter(|_| command == COMMAND);
        let Some(step) = step else {
            reply.error(Errno::ENOTTY);
            return;
        };
        let fs = self.fs.clone();
        let operation = async move { fs.warm(handle.0, step).await };
        self.run("ioctl", operation, |result| match result {
            Ok(told) => reply.ioctl(0, &told.encode()),
            Err(errno) => reply.error(errno),
        });
    }
}
