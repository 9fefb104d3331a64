//! Options about what requests carry: who pays, whose bucket it is, how what is written is stored. Pure but for the key file.

use crate::base::requests::{CustomerKey, RequestOptions, WriteEncryption};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More is no key in any form.
const MAX_KEY_FILE_BYTES: u64 = 1024;
/// Access for others than the file's owner.
const OF_OTHERS: u32 = 0o077;

#[derive(Args, Clone, Debug, Default)]
pub struct RequestArgs {
    /// Pay for requests to buckets whose owners do not
    #[arg(long, help_heading = "Store")]
    pub requester_pays: bool,
    /// Fail unless buckets belong to this account (12 digits)
    #[arg(long, value_name = "ACCOUNT", help_heading = "Store")]
    pub expected_bucket_owner: Option<String>,
    /// How all that is written is encrypted [default: as the object was before, or as the bucket says]
    #[arg(long, value_name = "HOW", help_heading = "Storing")]
    pub sse: Option<SseArg>,
    /// The key of the store's key management, for --sse aws:kms and aws:kms:dsse
    #[arg(long, value_name = "ID", help_heading = "Storing")]
    pub sse_kms_key_id: Option<String>,
    /// File with a key of your own (32 bytes, or their base64) that all is written and read with; the store does not keep it
    #[arg(long, value_name = "FILE", help_heading = "Storing")]
    pub sse_c_key_file: Option<PathBuf>,
    /// Storage class of all that is written, such as STANDARD_IA [default: that of the object before]
    #[arg(long, value_name = "CLASS", help_heading = "Storing")]
    pub storage_class: Option<String>,
    /// Canned ACL of all that is written, such as bucket-owner-full-control
    #[arg(long, value_name = "ACL", help_heading = "Storing")]
    pub acl: Option<AclArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SseArg {
    /// Keys of S3 itself
    #[value(name = "AES256")]
    S3,
    /// Keys of the key management service
    #[value(name = "aws:kms")]
    Kms,
    /// The same, in two layers
    #[value(name = "aws:kms:dsse")]
    Dsse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AclArg {
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    AwsExecRead,
    BucketOwnerRead,
    BucketOwnerFullControl,
}

/// The word as it is given.
fn word(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|possible| possible.get_name().to_owned())
        .unwrap_or_default()
}

impl RequestArgs {
    /// Fills the gaps from `other`.
    pub fn fill(&mut self, other: Self) {
        self.requester_pays |= other.requester_pays;
        self.expected_bucket_owner = self.expected_bucket_owner.take().or(other.expected_bucket_owner);
        self.sse = self.sse.or(other.sse);
        self.sse_kms_key_id = self.sse_kms_key_id.take().or(other.sse_kms_key_id);
        self.sse_c_key_file = self.sse_c_key_file.take().or(other.sse_c_key_file);
        self.storage_class = self.storage_class.take().or(other.storage_class);
        self.acl = self.acl.or(other.acl);
    }

    /// # Errors
    /// Usage failures for what is wrong in itself or contradicts; those of reading the key file, which nobody else may read.
    pub fn resolve(&self, environment: &Environment) -> Result<RequestOptions, Failure> {
        if let Some(owner) = &self.expected_bucket_owner
            && (owner.len() != 12 || !owner.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(Failure::usage(format!(
                "--expected-bucket-owner {owner:?}: an account's number has 12 digits"
            )));
        }
        if let Some(class) = &self.storage_class
            && (class.is_empty()
                || !class
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'))
        {
            return Err(Failure::usage(format!(
                "--storage-class {class:?}: expected capitals, digits and underscores, as in STANDARD_IA or INTELLIGENT_TIERING"
            )));
        }
        Ok(RequestOptions {
            requester_pays: self.requester_pays,
            expected_bucket_owner: self.expected_bucket_owner.clone(),
            encryption: self.encryption(environment)?,
            storage_class: self.storage_class.clone(),
            acl: self.acl.map(word),
        })
    }

    fn encryption(&self, environment: &Environment) -> Result<Option<WriteEncryption>, Failure> {
        if let Some(id) = &self.sse_kms_key_id {
            if !matches!(self.sse, Some(SseArg::Kms | SseArg::Dsse)) {
                return Err(Failure::usage(
                    "--sse-kms-key-id needs --sse aws:kms or --sse aws:kms:dsse",
                ));
            }
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Failure::usage(format!(
                    "--sse-kms-key-id {id:?}: expected a key's id, ARN or alias"
                )));
            }
        }
        match (self.sse, &self.sse_c_key_file) {
            (Some(_), Some(_)) => Err(Failure::usage(
                "--sse and --sse-c-key-file exclude each other: an object is encrypted in one way",
            )),
            (Some(how), None) => Ok(Some(WriteEncryption::Store {
                algorithm: word(how),
                kms_key_id: self.sse_kms_key_id.clone(),
            })),
            (None, Some(file)) => {
                let key = read_key(&environment.absolute(file))?;
                Ok(Some(WriteEncryption::Customer(key)))
            }
            (None, None) => Ok(None),
        }
    }
}

fn read_key(path: &Path) -> Result<CustomerKey, Failure> {
    let named =
        |error: std::io::Error| Failure::io(&error, format_args!("--sse-c-key-file {}", path.display()));
    let wrong = |why: &str| Failure::usage(format!("--sse-c-key-file {}: {why}", path.display()));
    let file = File::open(path).map_err(named)?;
    let metadata = file.metadata().map_err(named)?;
    if !metadata.is_file() {
        return Err(wrong("not a regular file"));
    }
    if metadata.mode() & OF_OTHERS != 0 {
        return Err(wrong(
            "others have access to it, and so to all that it encrypts: chmod 600",
        ));
    }
    let mut contents = Vec::new();
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut contents)
        .map_err(named)?;
    CustomerKey::from_file(&contents).map_err(|why| wrong(&why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;
    use std::os::unix::fs::PermissionsExt;

    fn resolve(args: &RequestArgs) -> Result<RequestOptions, String> {
        let environment = Environment::of_process().expect("an environment");
        args.resolve(&environment).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_contradicts_or_is_no_value_is_told() {
        let id = Some("alias/key".to_owned());
        let file = Some(PathBuf::from("/nonesuch"));
        let none = RequestArgs::default;
        for (args, part) in [
            (
                RequestArgs {
                    sse_kms_key_id: id.clone(),
                    ..none()
                },
                "needs --sse aws:kms",
            ),
            (
                RequestArgs {
                    sse: Some(SseArg::S3),
                    sse_kms_key_id: id.clone(),
                    ..none()
                },
                "needs --sse aws:kms",
            ),
            (
                RequestArgs {
                    sse: Some(SseArg::Kms),
                    sse_kms_key_id: Some("a b".into()),
                    ..none()
                },
                "expected a key's id",
            ),
            (
                RequestArgs {
                    sse: Some(SseArg::S3),
                    sse_c_key_file: file.clone(),
                    ..none()
                },
                "exclude each other",
            ),
            (
                RequestArgs {
                    sse_c_key_file: file,
                    ..none()
                },
                "/nonesuch",
            ),
            (
                RequestArgs {
                    storage_class: Some("glacier".into()),
                    ..none()
                },
                "STANDARD_IA",
            ),
            (
                RequestArgs {
                    expected_bucket_owner: Some("me".into()),
                    ..none()
                },
                "12 digits",
            ),
        ] {
            let message = resolve(&args).expect_err(part);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn values_are_as_s3_spells_them() {
        let options = resolve(&RequestArgs {
            requester_pays: true,
            expected_bucket_owner: Some("123456789012".into()),
            sse: Some(SseArg::Dsse),
            sse_kms_key_id: Some("arn:aws:kms:eu-west-1:1:key/2".into()),
            sse_c_key_file: None,
            storage_class: Some("STANDARD_IA".into()),
            acl: Some(AclArg::BucketOwnerFullControl),
        })
        .expect("right");
        assert_eq!(options.acl.as_deref(), Some("bucket-owner-full-control"));
        assert_eq!(
            options.encryption,
            Some(WriteEncryption::Store {
                algorithm: "aws:kms:dsse".into(),
                kms_key_id: Some("arn:aws:kms:eu-west-1:1:key/2".into()),
            })
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        std::fs::write(&path, [1; 32]).expect("written");
        let with_mode = |mode| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
            read_key(&path)
        };
        assert!(with_mode(0o600).is_ok() && with_mode(0o400).is_ok());
        for mode in [0o640, 0o604] {
            let failure = with_mode(mode).expect_err("others can read it");
            assert!(failure.to_string().contains("chmod 600"), "{failure}");
            assert_eq!(failure.exit, Exit::Usage);
        }
        assert!(read_key(directory.path()).is_err());
    }
}
