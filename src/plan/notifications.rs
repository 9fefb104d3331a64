//! What messages about a bucket say: S3's own event notifications, sent to the queue directly, through SNS or through
//! EventBridge.
//!
//! Difficulties, and who solves them:
//! 1. The same news comes in three wrappings, and keys are URL-encoded in two of them ([`of_record`], [`of_event_bridge`]).
//! 2. There are many kinds of events, and new ones come: whatever names a key says that something about it changed.
//! 3. A message that cannot be understood must not be taken for one without news: it is an error, with a reason.
//!
//! Source: Amazon S3 User Guide, "Event message structure", "Using EventBridge".

use crate::base::object::ETag;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::time::SystemTime;

/// A message in a message (SNS) in a message: no deeper.
const MAX_WRAPPINGS: usize = 2;

/// Something about an object changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub bucket: String,
    pub key: String,
    /// Of the version that is there now; `None` where the message does not say.
    pub etag: Option<ETag>,
    /// When it happened, by the store's clock; `None` where the message does not say.
    pub at: Option<SystemTime>,
    /// There may be nothing at the key any more.
    pub is_removal: bool,
}

/// The changes that a message tells of; none for the test message that S3 sends when notifications are set up.
///
/// # Errors
/// Why it cannot be understood.
pub fn parse(body: &str) -> Result<Vec<Change>, String> {
    parse_within(body, MAX_WRAPPINGS)
}

fn parse_within(body: &str, wrappings: usize) -> Result<Vec<Change>, String> {
    let message: Value = serde_json::from_str(body).map_err(|error| format!("no JSON: {error}"))?;
    if let Some(records) = message.get("Records").and_then(Value::as_array) {
        return records.iter().map(of_record).collect();
    }
    if message.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Ok(Vec::new());
    }
    if message.get("source").and_then(Value::as_str) == Some("aws.s3") {
        return of_event_bridge(&message).map(|change| vec![change]);
    }
    match (
        message.get("Type").and_then(Value::as_str),
        message.get("Message"),
    ) {
        (Some("Notification"), Some(Value::String(inner))) if wrappings > 0 => {
            parse_within(inner, wrappings - 1)
        }
        (Some("Notification"), _) => Err("a notification without a message".to_owned()),
        _ => Err("neither Records, nor an event of aws.s3, nor a notification of SNS".to_owned()),
    }
}

fn of_record(record: &Value) -> Result<Change, String> {
    let event = text(record, "/eventName")?;
    let object = record.pointer("/s3/object").ok_or("a record without an object")?;
    let encoded = text(object, "/key")?.replace('+', " ");
    let key = percent_decode_str(&encoded)
        .decode_utf8()
        .map_err(|_| format!("the key {encoded} is no UTF-8"))?;
    Ok(Change {
        bucket: text(record, "/s3/bucket/name")?.to_owned(),
        key: key.into_owned(),
        etag: object.get("eTag").and_then(Value::as_str).map(ETag::new),
        at: time(record.get("eventTime")),
        // Also ObjectRemoved:DeleteMarkerCreated and LifecycleExpiration:Delete; some stores begin all names with "s3:".
        is_removal: event.contains("ObjectRemoved") || event.contains("LifecycleExpiration"),
    })
}

fn of_event_bridge(event: &Value) -> Result<Change, String> {
    let object = event
        .pointer("/detail/object")
        .ok_or("an event without an object")?;
    Ok(Change {
        bucket: text(event, "/detail/bucket/name")?.to_owned(),
        key: text(object, "/key")?.to_owned(),
        etag: object.get("etag").and_then(Value::as_str).map(ETag::new),
        at: time(event.get("time")),
        is_removal: text(event, "/detail-type")? == "Object Deleted",
    })
}

fn time(value: Option<&Value>) -> Option<SystemTime> {
    humantime::parse_rfc3339(value?.as_str()?).ok()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| format!("no text at {pointer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, etag: Option<&str>, is_removal: bool) -> Change {
        Change {
            bucket: "photos".into(),
            key: key.into(),
            etag: etag.map(ETag::new),
            at: None,
            is_removal,
        }
    }

    fn at_four(change: Change) -> Change {
        let at = humantime::parse_rfc3339("2026-11-26T04:00:00Z").ok();
        Change { at, ..change }
    }

    const RECORDS: &str = r#"{"Records":[
        {"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"eu-west-1","eventTime":"2026-11-26T04:00:00.000Z",
         "eventName":"ObjectCreated:Put","s3":{"s3SchemaVersion":"1.0","bucket":{"name":"photos"},
         "object":{"key":"a+b/%C3%BC%2B.txt","size":12,"eTag":"d41d8cd98f00b204e9800998ecf8427e","sequencer":"0A1B"}}},
        {"eventName":"ObjectRemoved:DeleteMarkerCreated","s3":{"bucket":{"name":"photos"},
         "object":{"key":"gone","eTag":"x","versionId":"v"}}}]}"#;

    #[test]
    fn records_of_s3_are_read_with_their_keys_decoded() {
        let etag = Some("d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(
            parse(RECORDS),
            Ok(vec![
                at_four(change("a b/ü+.txt", etag, false)),
                change("gone", Some("x"), true)
            ])
        );
    }

    #[test]
    fn what_sns_wraps_is_unwrapped() {
        let wrapped = serde_json::json!({"Type": "Notification", "MessageId": "1", "Message": RECORDS});
        assert_eq!(parse(&wrapped.to_string()), parse(RECORDS));
        let mut deep = RECORDS.to_owned();
        for _ in 0..10 {
            deep = serde_json::json!({"Type": "Notification", "Message": deep}).to_string();
        }
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn events_of_event_bridge_have_plain_keys() {
        let event = r#"{"version":"0","time":"2026-11-26T04:00:00Z","source":"aws.s3","detail-type":"Object Created","detail":{"version":"0",
            "bucket":{"name":"photos"},"object":{"key":"a+b %20","size":5,"etag":"b1"},"reason":"PutObject"}}"#;
        assert_eq!(
            parse(event),
            Ok(vec![at_four(change("a+b %20", Some("b1"), false))])
        );
        let gone = r#"{"source":"aws.s3","detail-type":"Object Deleted","detail":{"bucket":{"name":"photos"},
            "object":{"key":"a"},"deletion-type":"Permanently Deleted"}}"#;
        assert_eq!(parse(gone), Ok(vec![change("a", None, true)]));
    }

    #[test]
    fn the_test_message_says_nothing() {
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"photos"}"#;
        assert_eq!(parse(test), Ok(vec![]));
    }

    #[test]
    fn other_messages_are_errors_that_say_why() {
        for (body, why) in [
            ("hello", "no JSON"),
            ("{}", "neither"),
            (r#"{"Type":"SubscriptionConfirmation","Message":"x"}"#, "neither"),
            (r#"{"Type":"Notification"}"#, "without a message"),
            (r#"{"Records":[{"eventName":"x","s3":{}}]}"#, "without an object"),
            (
                r#"{"Records":[{"eventName":"x","s3":{"object":{"key":"%FF"},"bucket":{"name":"b"}}}]}"#,
                "UTF-8",
            ),
            (
                r#"{"source":"aws.s3","detail-type":"x","detail":{"object":{"key":"k"}}}"#,
                "/detail/bucket/name",
            ),
        ] {
            let error = parse(body).expect_err(body);
            assert!(error.contains(why), "{body}: {error}");
        }
    }
}
