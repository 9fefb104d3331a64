//! Who opens a file and who takes its name away never do so at the same time: the latter must know of all handles.

use super::lock;
use crate::tree::node::Ino;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::RwLock;

/// For each inode: many opens, or one that takes its name away.
#[derive(Default)]
pub(crate) struct Gates(Mutex<HashMap<Ino, Weak<RwLock<()>>>>);

/// Gates that nobody uses any more are swept out beyond this number.
const MAX_GATES: usize = 1_000;

impl Gates {
    pub fn of(&self, ino: Ino) -> Arc<RwLock<()>> {
        let mut all = lock(&self.0);
        if let Some(gate) = all.get(&ino).and_then(Weak::upgrade) {
            return gate;
        }
        if all.len() > MAX_GATES {
            all.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::default();
        all.insert(ino, Arc::downgrade(&gate));
        gate
    }
}
