//! What a read gives, without a copy where it is one run of memory that somebody else keeps too.

use bytes::Bytes;

/// Bytes that are collected from their first on: shared as long as one run is all there is, else copied.
#[derive(Debug, Default)]
pub struct ReadBytes {
    /// Empty, or all there is.
    shared: Bytes,
    copied: Vec<u8>,
}

impl ReadBytes {
    /// Collects behind what `buffer` has, and in its memory where bytes are copied.
    #[must_use]
    pub fn behind(buffer: Vec<u8>) -> Self {
        Self {
            shared: Bytes::new(),
            copied: buffer,
        }
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        if self.shared.is_empty() {
            &self.copied
        } else {
            &self.shared
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub fn push(&mut self, bytes: Bytes) {
        if self.is_empty() {
            self.shared = bytes;
        } else {
            self.copied().extend_from_slice(&bytes);
        }
    }

    /// All there is, to copy more behind it.
    pub fn copied(&mut self) -> &mut Vec<u8> {
        if !self.shared.is_empty() {
            self.copied.extend_from_slice(&self.shared);
            self.shared.clear();
        }
        &mut self.copied
    }

    pub fn truncate(&mut self, len: usize) {
        self.shared.truncate(len);
        self.copied.truncate(len);
    }

    /// All there is; what was shared is copied.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(self.copied())
    }

    /// Gives back the memory for copies, for its next use.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_is_shared_and_more_are_copied() {
        let run = Bytes::from(vec![1, 2, 3]);
        let mut read = ReadBytes::behind(Vec::with_capacity(10));
        read.push(run.clone());
        assert_eq!(read.as_slice().as_ptr(), run.as_ptr());
        read.push(Bytes::from_static(&[4]));
        read.copied().push(5);
        assert_eq!(read.as_slice(), [1, 2, 3, 4, 5]);
        read.truncate(2);
        assert_eq!((read.len(), read.into_vec()), (2, vec![1, 2]));
    }

    #[test]
    fn what_is_cut_off_does_not_come_back() {
        let mut read = ReadBytes::default();
        read.push(Bytes::from_static(&[1, 2]));
        read.truncate(0);
        read.push(Bytes::from_static(&[3]));
        assert_eq!(read.as_slice(), [3]);
        let mut read = ReadBytes::behind(vec![7]);
        read.push(Bytes::from_static(&[8]));
        assert_eq!(read.into_vec(), [7, 8]);
    }
}
