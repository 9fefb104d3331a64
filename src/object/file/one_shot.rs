//! A file that is written once, from something that stays where it is: an upload by a command.
//!
//! 1. Its attributes are those of its source: writing the bytes does not make them younger.
//! 2. If somebody else's object is there instead, nothing is kept: whoever lost still has the source.
//! 3. Nobody stays to abort an upload in the background: [`File::discard`] does it, and is to be waited for.

use super::state::{Base, State};
use super::{Creation, File, FileContext};
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind};
use crate::base::object::{Condition, ObjectHeaders, ObjectId, ObjectInfo};
use std::sync::Arc;

impl File {
    /// A file whose only commit happens under `condition` (with [`Condition::None`] it replaces whatever is there). Dirty
    /// from the start, also while empty. `attributes`: those of the source; where they have no mtime, that of the writing.
    pub fn one_shot(
        context: &Arc<FileContext>,
        id: ObjectId,
        condition: &Condition,
        headers: ObjectHeaders,
        attributes: Attributes,
    ) -> Arc<Self> {
        let mut state = State::new(id, headers, attributes, context.client.server_time());
        state.is_one_shot = true;
        state.keeps_times = attributes.mtime.is_some();
        state.is_known_to_exist = false;
        state.base = match condition {
            Condition::None => Base::Any,
            Condition::Absent => Base::Absent,
            Condition::Matches(etag) => Base::Tag(etag.clone()),
        };
        state.creation = (*condition == Condition::Absent).then_some(Creation::Exclusive);
        state.note_change();
        Self::with_state(context, state)
    }

    /// More bytes came than the parts of its upload hold. A commit of what there is would show half of the file.
    pub(super) fn outgrown(&self) -> Error {
        let message = format!(
            "more than {} bytes do not fit into 10,000 parts of a quarter of the memory: more memory makes larger parts",
            self.size_bytes()
        );
        Error::new(ErrorKind::TooLarge, message).on(&self.id())
    }

    /// The condition did not hold: there is nothing to do about it.
    pub(super) fn lost_one_shot(&self, theirs: Option<&ObjectInfo>) -> Error {
        let mut state = self.state();
        state.given_up();
        let found = match theirs {
            Some(info) => format!("another object is there (ETag {})", info.version.etag),
            None => "there is no object".to_owned(),
        };
        let kind = if theirs.is_some() && state.creation == Some(Creation::Exclusive) {
            ErrorKind::Exists
        } else {
            ErrorKind::PreconditionFailed
        };
        let code = Some("PreconditionFailed".to_owned());
        Error::new(kind, format!("nothing was written: {found}"))
            .with_s3(code, Some(412), None)
            .on(&state.id)
    }
}
