//! Opening and closing.
//!
//! Difficulties:
//! 1. An open sees the newest committed version at the price of the first read: the check is a GET of the beginning,
//!    whose body becomes the reader's first block. A version that the kernel has pages of costs a HEAD instead.
//! 2. When that look finds another version than the kernel believes in, the kernel must look again: `Stale` makes it
//!    do so (`do_filp_open` in the kernel's `fs/namei.c` walks again with LOOKUP_REVAL), once. Whoever comes again and meets
//!    another surprise ([`super::again`]) is given what the name leads to by then, around the page cache, so that no size or
//!    page of two versions mix ([`Fs::open_by_name`]).
//! 3. All handles of an inode share one content ([`super::contents`]), and the kernel's way to it ([`super::passthrough`]).
//! 4. What takes a file's name away keeps what its handles need, and must know of all of them: it waits for opens that are
//!    on their way, and opens that come meanwhile wait for it, to find the name's new file ([`super::gates`]).

use super::contents::{Claim, OpenFile};
use super::passthrough::{Backing, Ordinary, Way};
use super::{Caller, Fs, Handle};
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::{KIB, MIB};
use crate::base::names::{self, FileRule};
use crate::base::object::{ByteRange, ETag, ObjectHeaders, ObjectId, Version};
use crate::object::file::{Creation, File};
use crate::object::reader::{ReadStream, Reader};
use crate::rt;
use crate::s3::GetReply;
use crate::s3::types::GetRequest;
use crate::tree::freshness::Freshness;
use crate::tree::node::{DirectoryPlace, Ino, Kind, Node};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Objects up to this size come whole with the first request.
const WHOLE_BYTES: u64 = MIB;
/// Of larger ones, this much.
const FIRST_BYTES: u64 = 128 * KIB;

/// How often the beginning of an object is asked for, when the answers do not fit.
const MAX_GETS: u32 = 3;
/// How often a name is looked at whose file is replaced each time before it can be opened.
const MAX_LOOKS: u32 = 8;

pub struct FileHandle {
    pub ino: Ino,
    pub open: Arc<OpenFile>,
    pub stream: ReadStream,
    pub readable: bool,
    pub writable: bool,
    /// Those of open(2).
    pub flags: i32,
    /// The kernel reads and writes around its page cache.
    pub direct_io: bool,
    /// What the inode's pages are of once the kernel has heard of this open, which it has when it names the handle.
    pub pages_of: Option<ETag>,
    pub is_heard_of: AtomicBool,
    /// Held until the handle is closed.
    _way: Way,
    /// Its open has made the file: closing it means that the file is in the bucket, even if it only reads.
    pub created: bool,
    /// This handle has written: errors of background commits are its to hear.
    pub wrote: AtomicBool,
}

/// What the kernel is told about an open.
#[derive(Clone, Debug)]
pub struct Opened {
    pub handle: u64,
    /// The kernel's pages of this inode are of this version.
    pub keep_cache: bool,
    /// Read and write around the page cache.
    pub direct_io: bool,
    /// Closing it has nothing to wait for.
    pub no_flush: bool,
    /// What the kernel is to read by itself ([`Fs::kernel_backing`]).
    pub backing: Option<Arc<Backing>>,
}

/// How an open is answered.
struct Answer {
    keep_cache: bool,
    direct_io: bool,
    way: Way,
}

impl Answer {
    /// The kernel drops its pages and has new ones from then on.
    fn new(way: Way) -> Self {
        Self {
            keep_cache: false,
            direct_io: false,
            way,
        }
    }
}

/// What becomes of an open that meets another version than the kernel knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surprise {
    /// The kernel is to look again.
    IsStale,
    /// It has: what is there is opened, around the page cache.
    IsOpened,
}

impl Fs {
    /// open(2) of something that exists. `flags` are those of open(2).
    ///
    /// # Errors
    /// `Stale` makes the kernel look the path up again and come back, which it does once; then `Busy` where the name leads to
    /// something else at each look.
    pub async fn open(self: &Arc<Self>, caller: Caller, ino: Ino, flags: i32) -> Result<Opened> {
        let comes_again = self.sent_back.comes_again(caller.thread);
        match self.open_inode(ino, flags, Surprise::IsStale).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                if comes_again {
                    return self.open_by_name(ino, flags).await;
                }
                self.sent_back.note(caller.thread);
                Err(error)
            }
            other => other,
        }
    }

    /// Opens what the name of an inode leads to now. The kernel goes on to think that it is the inode which it asked for; so
    /// the handle goes around its page cache, and its size is asked for anew.
    async fn open_by_name(self: &Arc<Self>, ino: Ino, flags: i32) -> Result<Opened> {
        for _ in 0..MAX_LOOKS {
            let node = self.tree.named_now(ino).await?;
            match self.open_inode(node.ino, flags, Surprise::IsOpened).await {
                Err(error) if error.kind() == ErrorKind::Stale => {}
                Err(error) => return Err(error),
                Ok(opened) if node.ino == ino => return Ok(opened),
                Ok(opened) => {
                    self.tree.shows(ino, node.ino);
                    self.tree.attributes_forgotten(ino).await;
                    let keep_cache = false;
                    return Ok(Opened { keep_cache, ..opened });
                }
            }
        }
        let error = Error::new(ErrorKind::Busy, "the object is replaced again and again");
        Err(match self.tree.node(ino)?.object() {
            Some(id) => error.on(id),
            None => error,
        })
    }

    async fn open_inode(self: &Arc<Self>, ino: Ino, flags: i32, surprise: Surprise) -> Result<Opened> {
        let _turn = self.edit_turn(ino).await;
        let _passing = self.gates.of(ino).read_owned().await;
        let node = self.tree.node(ino)?;
        if node.kind == Kind::Directory {
            return Err(Error::new(ErrorKind::IsDirectory, "is a directory"));
        }
        let access = flags & libc::O_ACCMODE;
        let writes = access != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        if writes {
            self.changeable(ino)?;
        }
        if node.gone && !node.unlinked {
            // Somebody else's version has the name.
            return Err(stale(&node));
        }
        // The kernel may know another size, and have pages of another version.
        let direct_io = surprise == Surprise::IsOpened;
        if flags & libc::O_TRUNC != 0 {
            let (open, changing) = self.open_truncated(&node).await?;
            self.tree.truncated(ino);
            self.tree.settle_size(ino).await;
            let way = Way::Ordinary(changing);
            let answer = Answer {
                direct_io,
                ..Answer::new(way)
            };
            return Ok(self.add_file_handle(ino, &open, flags, answer));
        }
        let open = match self.claim(ino) {
            Some(open) if self.is_newest(&node, &open).await? => open,
            None if !node.gone => self.open_from_bucket(&node, surprise).await?,
            Some(_) | None => return Err(stale(&node)),
        };
        let way = if writes {
            Way::Ordinary(self.changing(&open).await?)
        } else {
            // The other handles' way, whatever this one would like.
            let candidate = self.backing_for(ino, &open).await;
            open.way_to_read(candidate.filter(|_| !direct_io))
        };
        self.tree.settle_size(ino).await;
        let answer = Answer {
            // Dropped pages would have to be fetched again, by others too.
            keep_cache: way.backing().is_none() && self.tree.keeps_pages(ino),
            direct_io,
            way,
        };
        Ok(self.add_file_handle(ino, &open, flags, answer))
    }

    /// Whether an operation that begins now may work with a content that is open already.
    pub(crate) async fn is_newest(&self, node: &Node, open: &OpenFile) -> Result<bool> {
        if open.file.is_dirty() || node.unlinked {
            return Ok(true);
        }
        // A commit whose news is still on its way: what the bucket has is no surprise.
        open.file.tell();
        self.is_current(&self.tree.node(node.ino)?).await
    }

    /// Whether the version that open handles have is still the newest.
    async fn is_current(&self, node: &Node) -> Result<bool> {
        if self.tree.trusts_caches(node) {
            return Ok(true);
        }
        let info = self.tree.look(node).await?;
        Ok(node
            .version
            .as_ref()
            .is_some_and(|version| version.etag == info.version.etag))
    }

    async fn open_from_bucket(self: &Arc<Self>, node: &Node, surprise: Surprise) -> Result<Claim> {
        let id = node
            .object()
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::IsDirectory, "is a directory"))?;
        let has_pages = self.tree.has_pages(node) && node.version.is_some();
        // What nobody has looked at yet comes with the first bytes, also where it needs no check.
        let needs_no_look = self.tree.trusts_caches(node) && node.headers.is_some();
        if needs_no_look || has_pages || self.is_on_disk(node).await {
            return self.open_by_head(node, id).await;
        }
        let asked_at = rt::now();
        let reply = match self.get_beginning(node, &id).await {
            Ok(reply) => reply,
            // The object shrank to less than the first byte asked for: look again.
            Err(error) if error.kind() == ErrorKind::BadRange => {
                self.tree.look(node).await?;
                return Err(stale(node));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.tree.saw_nothing(node.ino);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let info = reply.info.clone();
        match (self.tree.saw(node.ino, &info, asked_at), surprise) {
            (Freshness::Same, _) | (Freshness::Changed, Surprise::IsOpened) => {}
            _ => return Err(stale(node)),
        }
        let attributes = Attributes::read(&info.headers.metadata);
        let reader = Reader::from_reply(
            self.context.client.clone(),
            self.context.budget.clone(),
            self.context.disk_cache.clone(),
            id,
            reply,
        );
        let file = File::existing(&self.context, reader, info.headers, attributes);
        self.share(node.ino, Some(&info.version.etag), file)
    }

    /// The beginning of the object, or all of it where it is small.
    ///
    /// # Errors
    /// What S3 says; `Stale` when what was known of the object's length was wrong; `Corrupt` when the answers' length is.
    async fn get_beginning(&self, node: &Node, id: &ObjectId) -> Result<GetReply> {
        let known = node.version.as_ref();
        let size_bytes = known.map_or(0, |version| version.size_bytes);
        let request = GetRequest {
            id: id.clone(),
            range: (size_bytes > WHOLE_BYTES).then(|| ByteRange::new(0, FIRST_BYTES)),
            if_match: None,
            version_id: None,
        };
        for _ in 0..MAX_GETS {
            let reply = self.context.client.get(&request).await?;
            let found = &reply.info.version;
            if known.is_none_or(|known| known.etag != found.etag || known.size_bytes == found.size_bytes) {
                return Ok(reply);
            }
            // One version has one length: either what was known is wrong, or this answer.
            let found_bytes = found.size_bytes;
            drop(reply);
            if self.tree.look(node).await?.version.size_bytes != size_bytes {
                return Err(stale(node));
            }
            tracing::debug!(object = %id, size_bytes, found_bytes, "an answer of a wrong length");
        }
        let text =
            format!("the store's answers have another length than the object, which has {size_bytes} bytes");
        Err(Error::new(ErrorKind::Corrupt, text).on(id))
    }

    /// Whether the disk cache has all of the version that is known: then a look at the object is enough.
    async fn is_on_disk(&self, node: &Node) -> bool {
        let (Some(cache), Some(id), Some(version)) = (
            self.context.disk_cache.clone(),
            node.object().cloned(),
            node.version.clone(),
        ) else {
            return false;
        };
        let asked = cache.clone();
        let look = move || asked.has_all(&id.bucket, &id.key, version.etag.as_str(), version.size_bytes);
        cache.ask(look).await.unwrap_or(false)
    }

    async fn open_by_head(self: &Arc<Self>, node: &Node, id: ObjectId) -> Result<Claim> {
        let mut node = node.clone();
        if !self.tree.trusts_caches(&node) || node.headers.is_none() || node.version.is_none() {
            let info = self.tree.look(&node).await?;
            if node
                .version
                .as_ref()
                .is_none_or(|version| version.etag != info.version.etag)
            {
                return Err(stale(&node));
            }
            node = self.tree.node(node.ino)?;
        }
        let Some(version) = node.version.clone() else {
            return Err(stale(&node));
        };
        let headers = node.headers.as_deref().cloned().unwrap_or_default();
        let reader = Reader::cached(
            self.context.client.clone(),
            self.context.budget.clone(),
            self.context.disk_cache.clone(),
            id,
            version.clone(),
        );
        let file = File::existing(&self.context, reader, headers, node.attributes);
        self.share(node.ino, Some(&version.etag), file)
    }

    /// The content of an inode without a handle, for operations by path.
    ///
    /// # Errors
    /// `Stale` when the name leads to another version now.
    pub(crate) async fn content_of(self: &Arc<Self>, node: &Node) -> Result<Claim> {
        let _turn = self.edit_turn(node.ino).await;
        for _ in 0..MAX_LOOKS {
            let node = self.tree.node(node.ino)?;
            if let Some(open) = self.claim(node.ino) {
                if node.gone && !node.unlinked || !self.is_newest(&node, &open).await? {
                    return Err(stale(&node));
                }
                return Ok(open);
            }
            if node.gone {
                return Err(stale(&node));
            }
            let id = node
                .object()
                .cloned()
                .ok_or_else(|| Error::new(ErrorKind::IsDirectory, "is a directory"))?;
            let info = self.tree.look(&node).await?;
            let attributes = Attributes::read(&info.headers.metadata);
            let etag = info.version.etag.clone();
            let (client, budget) = (self.context.client.clone(), self.context.budget.clone());
            let reader = Reader::new(client, budget, id, info.version);
            let file = File::existing(&self.context, reader, info.headers, attributes);
            match self.share(node.ino, Some(&etag), file) {
                // The answer came late: something newer is known by now.
                Err(error) if error.kind() == ErrorKind::Stale => {}
                shared => return shared,
            }
        }
        Err(stale(node))
    }

    async fn open_truncated(self: &Arc<Self>, node: &Node) -> Result<(Claim, Ordinary)> {
        if let Some(open) = self.claim(node.ino) {
            if !self.is_newest(node, &open).await? {
                return Err(stale(node));
            }
            let changing = self.changing(&open).await?;
            open.file.empty().await?;
            return Ok((open, changing));
        }
        if node.gone {
            return Err(stale(node));
        }
        let id = node
            .object()
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::IsDirectory, "is a directory"))?;
        let node = if node.headers.is_some() {
            node.clone()
        } else {
            // Metadata, content type and tags of the old version are the new one's too.
            match self.tree.look(node).await {
                Ok(_) => self.tree.node(node.ino)?,
                Err(error) => return Err(error),
            }
        };
        let Some(version) = node.version.clone() else {
            return Err(stale(&node));
        };
        let headers = node.headers.as_deref().cloned().unwrap_or_default();
        let now = Some(rt::wall_clock());
        let attributes = Attributes {
            mtime: now,
            ctime: now,
            ..node.attributes
        };
        let etag = version.etag.clone();
        let file = File::truncating(&self.context, id, version, headers, attributes);
        let open = self.share(node.ino, Some(&etag), file.clone())?;
        let changing = self.changing(&open).await?;
        if !Arc::ptr_eq(&open.file, &file) {
            // Another open was faster, which emptied nothing.
            open.file.empty().await?;
        }
        Ok((open, changing))
    }

    fn add_file_handle(&self, ino: Ino, open: &Claim, flags: i32, answer: Answer) -> Opened {
        let direct_io = answer.direct_io || is_for_appending(flags);
        let backing = answer.way.backing().cloned();
        let has_pages = !direct_io && backing.is_none() && flags & libc::O_TRUNC == 0;
        let version = self.tree.node(ino).ok().and_then(|node| node.version);
        let pages_of = version.filter(|_| has_pages).map(|version| version.etag);
        let answer = Answer { direct_io, ..answer };
        Opened {
            keep_cache: answer.keep_cache,
            direct_io,
            no_flush: flags & libc::O_ACCMODE == libc::O_RDONLY,
            backing,
            handle: self.new_file_handle(ino, open, flags, false, pages_of, answer),
        }
    }

    fn new_file_handle(
        &self,
        ino: Ino,
        open: &Claim,
        flags: i32,
        created: bool,
        pages_of: Option<ETag>,
        answer: Answer,
    ) -> u64 {
        let access = flags & libc::O_ACCMODE;
        open.handles.fetch_add(1, Ordering::SeqCst);
        self.tree.pin(ino);
        let handle = FileHandle {
            ino,
            open: Arc::clone(open),
            stream: ReadStream::default(),
            readable: access != libc::O_WRONLY,
            writable: access != libc::O_RDONLY,
            flags,
            direct_io: answer.direct_io,
            pages_of,
            is_heard_of: AtomicBool::new(false),
            _way: answer.way,
            created,
            wrote: AtomicBool::new(false),
        };
        self.add_handle(Handle::File(Arc::new(handle)))
    }

    /// creat(2) and open(2) with O_CREAT of a name that was not there when the kernel looked.
    ///
    /// # Errors
    /// `Exists` with O_EXCL when this mount has such a file; the bucket decides at the first commit.
    pub async fn create(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: &str,
        mode: u32,
        flags: i32,
    ) -> Result<(Node, Opened)> {
        self.writable()?;
        let (directory, id) = self.place_of_new_file(parent, name).await?;
        self.context.client.check_changeable(&id)?;
        let known = self.tree.known_object(&id);
        if let Some(node) = known {
            if flags & libc::O_EXCL != 0 {
                return Err(Error::new(ErrorKind::Exists, "the file exists already").on(&id));
            }
            let opened = self.open(caller, node.ino, flags).await?;
            self.tree.count_lookup(node.ino);
            return Ok((node, opened));
        }
        let attributes = self
            .new_attributes(caller, parent, libc::S_IFREG | (mode & 0o7777))
            .await?;
        let marker = self.tree.marker_for_data(&directory, &id).await?;
        let file = self.new_file(&id, flags, attributes, marker);
        let node = self.tree.create_local(&directory, name, &id, attributes);
        self.tree.count_lookup(node.ino);
        let open = self.share(node.ino, None, file)?;
        let direct_io = is_for_appending(flags);
        let answer = Answer {
            direct_io,
            ..Answer::new(Way::Ordinary(Ordinary::of(&open)))
        };
        let handle = self.new_file_handle(node.ino, &open, flags, true, None, answer);
        self.touch_directory(&directory);
        Ok((
            node,
            Opened {
                handle,
                keep_cache: false,
                direct_io,
                no_flush: false,
                backing: None,
            },
        ))
    }

    /// A file that is to replace `marker`, if there is one.
    fn new_file(
        &self,
        id: &ObjectId,
        flags: i32,
        attributes: Attributes,
        marker: Option<Version>,
    ) -> Arc<File> {
        let headers = ObjectHeaders {
            content_type: Some(content_type(&id.key)),
            ..ObjectHeaders::default()
        };
        if let Some(replaced) = marker {
            return File::truncating(&self.context, id.clone(), replaced, headers, attributes);
        }
        let creation = if flags & libc::O_EXCL != 0 {
            Creation::Exclusive
        } else if flags & libc::O_TRUNC != 0 {
            Creation::Truncating
        } else {
            Creation::Plain
        };
        File::create(&self.context, id.clone(), creation, headers, attributes)
    }

    /// The key that a new file of that name gets.
    ///
    /// # Errors
    /// `Invalid` for names that no key has.
    pub(crate) async fn place_of_new_file(
        &self,
        parent: Ino,
        name: &str,
    ) -> Result<(DirectoryPlace, ObjectId)> {
        let directory = self.tree.directory(parent)?;
        let resolved = match names::resolve(&directory.key, OsStr::new(name)) {
            Ok(resolved) => resolved,
            Err(names::NameError::NoSuchName) => return Err(no_such_name(name)),
            Err(error) => return Err(Error::new(error.on_creation(), error.to_string())),
        };
        let Some(file) = resolved.file else {
            return Err(no_such_name(name));
        };
        let id = ObjectId::new(directory.bucket.clone(), file.key.as_str());
        if file.rule == FileRule::BesideDirectory && !self.tree.directory_beside(&id).await? {
            return Err(no_such_name(name));
        }
        Ok((directory, id))
    }

    /// The last close of a handle. What a flush could not send is tried again in the background.
    pub async fn release(self: &Arc<Self>, number: u64) {
        let Some(Handle::File(handle)) = self.take_handle(number) else {
            return;
        };
        let ino = handle.ino;
        let open = handle.open.clone();
        drop(handle);
        if open.handles.fetch_sub(1, Ordering::SeqCst) == 1 {
            open.closed.notify_waiters();
            if !open.is_in_use() {
                self.last_close(ino, &open).await;
            } else if open.file.is_dirty() {
                // Only files that copy from it need it still.
                self.commit_later(ino);
            }
        }
        self.tree.unpin(ino);
    }
}

/// Where appended bytes land is known only once they are in the bucket: pages of them would be of the wrong places. A handle
/// that cannot read cannot be mapped either, so nothing is lost by going around the page cache.
fn is_for_appending(flags: i32) -> bool {
    flags & libc::O_APPEND != 0 && flags & libc::O_ACCMODE == libc::O_WRONLY
}

impl Fs {
    /// Attributes of what `caller` creates now in a directory. `mode` has the type bits. In a directory with the set-group-id
    /// bit everything gets its group, and directories that bit too.
    ///
    /// # Errors
    /// What S3 says when the directory is asked for its attributes.
    pub(crate) async fn new_attributes(&self, caller: Caller, parent: Ino, mode: u32) -> Result<Attributes> {
        let parent = self.attr(&self.tree.with_attributes(self.tree.node(parent)?).await?);
        let inherits = parent.mode & libc::S_ISGID != 0;
        let inherited_bit = if inherits && mode & libc::S_IFMT == libc::S_IFDIR {
            libc::S_ISGID
        } else {
            0
        };
        let now = rt::wall_clock();
        Ok(Attributes {
            mode: Some(mode | inherited_bit),
            uid: Some(caller.uid),
            gid: Some(if inherits { parent.gid } else { caller.gid }),
            mtime: Some(now),
            ctime: Some(now),
            ..Attributes::default()
        })
    }
}

/// The content type that a new object gets: by the extension of its name.
#[must_use]
pub fn content_type(key: &str) -> String {
    mime_guess::from_path(key)
        .first_or_octet_stream()
        .essence_str()
        .to_owned()
}

fn stale(node: &Node) -> Error {
    let error = Error::new(ErrorKind::Stale, "the object was replaced");
    match node.object() {
        Some(id) => error.on(id),
        None => error,
    }
}

fn no_such_name(name: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("no object can have the name {name:?}: names beginning with ~% are escapes"),
    )
}
