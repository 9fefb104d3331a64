//! The pages of one directory's listing, in order, as they are asked for ahead of the reader.
//!
//! Difficulties, and who solves them:
//! 1. Which page to ask for, and how what comes is put together: `plan::leaps`.
//! 2. Where that is not done: in directory buckets and where listings are in no order, as a page has no place there, and
//!    in views of a bucket, whose pages are made of several. Nor from the moment on at which this mount changes the directory:
//!    what lies ahead would show it as it was ([`Pages::mind_changes`]).
//! 3. Nobody reads on: what is on its way is given up with the stream ([`OnItsWay`]).
//! 4. A reader is told of an error once, and may ask again: nothing of what came is lost, and nothing comes twice.

use super::Tree;
use super::directory::{PAGE_KEYS, joined, page_object};
use super::node::DirectoryPlace;
use crate::base::error::{Error, ErrorKind, Result};
use crate::cache::listings::Moment;
use crate::plan::entries::ListingOrder;
use crate::plan::leaps::{Leaps, Next, Page, PageRequest};
use crate::rt::{self, JoinHandle};
use crate::s3::types::{ListPage, ListRequest};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What the names of directory buckets end in, which list in no order and from no key on.
const OF_DIRECTORY_BUCKETS: &str = "--x-s3";

/// The listing of one directory.
pub(super) struct Pages {
    place: DirectoryPlace,
    leaps: Leaps,
    on_their_way: FuturesUnordered<OnItsWay>,
    since: Moment,
}

/// A page that was asked for. Given up when it is dropped.
struct OnItsWay {
    number: u64,
    page: JoinHandle<Result<ListPage>>,
}

impl Future for OnItsWay {
    type Output = (u64, Result<ListPage>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.number;
        self.page.poll_unpin(cx).map(|page| (number, joined(page)))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.page.abort();
    }
}

impl Pages {
    pub(super) fn new(tree: &Tree, place: &DirectoryPlace) -> Self {
        let may_leap = tree.listing_order() == ListingOrder::Bytes
            && tree.client.shows_what_is_now()
            && !place.bucket.ends_with(OF_DIRECTORY_BUCKETS);
        Self {
            place: place.clone(),
            leaps: Leaps::new(&place.key.listing_prefix(), PAGE_KEYS as usize, may_leap),
            on_their_way: FuturesUnordered::new(),
            since: tree.listings.moment(),
        }
    }

    /// The next page. Not to be asked for behind the last one.
    ///
    /// # Errors
    /// What S3 says; the same page may be asked for again.
    pub(super) async fn next(&mut self, tree: &Arc<Tree>) -> Result<Next> {
        while let Some(Some((number, page))) = self.on_their_way.next().now_or_never() {
            self.absorb(tree, number, page)?;
        }
        self.mind_changes(tree);
        loop {
            let next = self.leaps.next_page();
            while let Some(request) = self.leaps.next_request() {
                self.on_their_way.push(self.ask(tree, request));
            }
            if let Some(next) = next {
                return Ok(next);
            }
            let Some((number, page)) = self.on_their_way.next().await else {
                return Err(Error::new(ErrorKind::Internal, "nothing is listed any more")
                    .on_bucket(&self.place.bucket));
            };
            self.absorb(tree, number, page)?;
        }
    }

    /// # Errors
    /// Where the reader waits for this page.
    fn absorb(&mut self, tree: &Tree, number: u64, page: Result<ListPage>) -> Result<()> {
        match page {
            Ok(page) => {
                tree.note_page(&page.objects);
                self.leaps.absorb(number, page_of(page));
                Ok(())
            }
            Err(error) if self.leaps.fail(number) => Err(error),
            Err(error) => {
                // Whoever comes there is told then.
                tracing::debug!(%error, "listing ahead in a large directory failed");
                Ok(())
            }
        }
    }

    fn mind_changes(&mut self, tree: &Tree) {
        if self.leaps.leaps()
            && (tree.listing_order() != ListingOrder::Bytes
                || tree.listings.has_changed(&self.place, self.since))
        {
            self.leaps.stop();
        }
    }

    /// In a task of its own: reading a page takes time.
    fn ask(&self, tree: &Tree, page: PageRequest) -> OnItsWay {
        let request = ListRequest {
            bucket: self.place.bucket.clone(),
            prefix: self.place.key.listing_prefix().into_owned(),
            by_directory: true,
            start_after: page.start_after,
            continuation: page.continuation,
            max_keys: PAGE_KEYS,
        };
        let client = tree.client.clone();
        OnItsWay {
            number: page.number,
            page: rt::spawn(async move { client.list(&request).await }),
        }
    }
}

fn page_of(page: ListPage) -> Page {
    Page {
        objects: page.objects.into_iter().map(page_object).collect(),
        prefixes: page.prefixes,
        continuation: page.continuation,
    }
}
