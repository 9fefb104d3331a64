//! `pailfs url`: a signed link. Nothing is asked of the store: neither whether the object exists nor which region the
//! bucket is in (`--region` says so where it matters).

use super::args::UrlArgs;
use super::output::{self, Output, Stop};
use super::{block_on, connect_plainly};
use crate::cli::failure::Failure;
use crate::cli::say::say;
use crate::rt;
use crate::s3::LinkMethod;
use serde::Serialize;
use std::time::SystemTime;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Link<'a> {
    name: &'a str,
    method: &'a str,
    signed_url: &'a str,
    expires: String,
}

/// # Errors
/// Usage for a lifetime that no link can have, and without a key.
pub fn run(args: &UrlArgs) -> Result<(), Failure> {
    let id = args.location.object()?;
    if args.common.endpoint.no_sign_request {
        return Err(Failure::usage(
            "--no-sign-request: a signed link needs credentials",
        ));
    }
    let method = if args.put {
        LinkMethod::Put
    } else {
        LinkMethod::Get
    };
    let (link, credentials_end) = block_on(async {
        let client = connect_plainly(&args.common).await?;
        let link = client.signed_link(method, &id, args.expires).await?;
        Ok((link, client.credentials_end().await))
    })?;
    let mut end = rt::wall_clock() + args.expires;
    if let Some(earlier) = credentials_end.filter(|earlier| *earlier < end) {
        say(format_args!("pailfs: warning: {}", warning(earlier)));
        end = earlier;
    }
    output::ended(print(args, method, &link, end))
}

fn print(args: &UrlArgs, method: LinkMethod, link: &str, end: SystemTime) -> Result<(), Stop> {
    let mut output = Output::stdout();
    if args.common.json {
        output.json_line(&Link {
            name: &args.location.key,
            method: match method {
                LinkMethod::Get => "GET",
                LinkMethod::Put => "PUT",
            },
            signed_url: link,
            expires: output::rfc3339(end),
        })?;
    } else {
        output.line(link)?;
    }
    output.flush()
}

fn warning(credentials_end: SystemTime) -> String {
    format!(
        "the link ends at {}, when the credentials that signed it expire",
        output::rfc3339(credentials_end)
    )
}
