//! Requests about an object's tags.

use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::retry::Call;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ObjectHeaders, ObjectId};
use crate::telemetry::RequestClass;
use aws_sdk_s3::types::{Tag, Tagging};
use std::collections::BTreeMap;

impl Client {
    /// Tags as `key=value&…`, percent-encoded.
    pub async fn get_tagging(&self, id: &ObjectId) -> Result<Option<String>> {
        let (seen, version_id) = &self.seen_as(id, None).await?;
        let call = Call::on_object("GetObjectTagging", RequestClass::Other, id);
        let output = self
            .inner
            .run(&call, |sdk| {
                let request = sdk.get_object_tagging().bucket(&*seen.bucket).key(&*seen.key);
                let request = request.set_version_id(version_id.clone());
                async move { request.send().await.map_err(Failure::from) }
            })
            .await;
        match output {
            Ok(output) => Ok(convert::tagging(output.tag_set())),
            Err(error) if error.s3_code() == Some("NoSuchTagSet") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `headers` with the tags that the object `of` has, where they are not known yet.
    ///
    /// # Errors
    /// What the store says, so that no tag is lost silently.
    pub async fn with_tags(&self, headers: &ObjectHeaders, of: &ObjectId) -> Result<ObjectHeaders> {
        let mut headers = headers.clone();
        if headers.unread_tags > 0 && headers.tagging.is_none() {
            headers.tagging = match self.get_tagging(of).await {
                Ok(tagging) => tagging,
                // What becomes of an edit of an object that is gone, its condition decides.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(headers)
    }

    /// Replaces all tags; an empty map removes them.
    ///
    /// # Errors
    /// `Invalid` for what S3 does not take for tags.
    pub async fn put_tagging(&self, id: &ObjectId, tags: &BTreeMap<String, String>) -> Result<()> {
        if tags.is_empty() {
            let call = Call::on_object("DeleteObjectTagging", RequestClass::Other, id);
            let deleted = self.inner.run(&call, |sdk| {
                let request = sdk.delete_object_tagging().bucket(&*id.bucket).key(&*id.key);
                async move { request.send().await.map_err(Failure::from) }
            });
            return deleted.await.map(drop);
        }
        self.check_changeable(id)?;
        let tags: Result<Vec<Tag>, _> = tags
            .iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build())
            .collect();
        let tagging = tags.and_then(|tags| Tagging::builder().set_tag_set(Some(tags)).build());
        let tagging = tagging.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()).on(id))?;
        let call = Call::on_object("PutObjectTagging", RequestClass::Other, id);
        let put = self.inner.run(&call, |sdk| {
            let request = sdk
                .put_object_tagging()
                .bucket(&*id.bucket)
                .key(&*id.key)
                .tagging(tagging.clone());
            async move { request.send().await.map_err(Failure::from) }
        });
        put.await.map(drop)
    }
}
