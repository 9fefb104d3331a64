//! The S3 edge: the only user of the AWS SDK.
//!
//! Its difficulties, and who solves each:
//! 1. A reply that is lost after the request was sent: the change may or may not have happened. `connector`
//!    knows whether a request left, `errors` judges, `retry` acts: idempotent requests again, all others
//!    `Ambiguous` at once.
//! 2. Bodies that break or stall in the middle: `connector` notices, `body` resumes with `Range` and
//!    `If-Match`.
//! 3. Buckets in other regions: `regions` keeps a client per region and learns from the redirects.
//! 4. Stores that accept a condition and ignore it: `capabilities` says what is known, `probe` finds out.
//! 5. Bytes at full speed: own HTTP connector with large buffers (`connector`), connections through proxies
//!    and TLS (`dial`, `tls`, `resolver`), bodies of known length without copies (`upload_body`).
//! 6. Which store it is, however it was named: `endpoint`.
//! 7. Whose requests they are, and keys that are replaced while we run: `credentials`.
//! 8. What a user's options say goes on every request that it is for: `stamp`.
//! 9. A versioned bucket as it was, or with all versions: `view`.
//! 10. Names and values that HTTP or XML cannot carry as they are: `convert`, `list`.
//! 11. News about a bucket come by a queue, with an address and a protocol of its own: `queue`.

mod advice;
mod archive;
mod body;
mod buckets;
pub mod capabilities;
mod client;
mod clock;
mod config;
mod connector;
mod convert;
mod credentials;
mod dial;
mod endpoint;
mod errors;
mod list;
mod multipart;
mod objects;
mod pace;
mod presign;
mod probe;
mod queue;
mod regions;
mod resolver;
mod retry;
pub mod silence;
mod stamp;
mod tags;
mod tls;
pub mod types;
mod upload_body;
pub mod versions;
mod view;

pub use archive::{Archive, Restore};
pub use body::{BodyReader, GetReply};
pub use capabilities::{Capabilities, Feature, Support};
pub use client::Client;
pub use config::{ClientOptions, PathStyle, StaticCredentials};
pub use dial::Dialer;
pub use presign::{Addresses, LONGEST_LINK, LinkMethod};
pub use queue::{Message, Queue};
pub use view::VERSIONS;
