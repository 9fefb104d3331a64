//! What is remembered of the bucket in memory: listings of directories, and attributes of objects.
//! Both are bounded, and both may be thrown away at any moment without harm.

pub mod attributes;
pub mod listings;
