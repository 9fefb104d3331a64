//! `pailfs serve`: the embedded store over a directory, until Ctrl-C or SIGTERM.

use crate::cli::args::ServeArgs;
use crate::cli::connect;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::foreground::start_log;
use crate::cli::say::read_or_gone;
use crate::cli::signals::EndingSignals;
use crate::cli::system::directories;
use crate::embedded::{Server, ServerOptions};
use std::io::Write;
use std::net::Ipv4Addr;

/// # Errors
/// When the directory or the port cannot be used.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    start_log(&args.log, &environment)?;
    let directory = environment.absolute(&args.dir);
    directories::make_private(&directory)?;
    let mut options = ServerOptions::new(directory);
    options.address = (Ipv4Addr::LOCALHOST, args.port).into();
    options.durable = true;
    connect::block_on(async {
        let mut signals = EndingSignals::listen()?;
        let server = Server::start(options.clone()).await?;
        let text = describe(&server.endpoint_url(), &options);
        let mut output = std::io::stdout();
        read_or_gone(output.write_all(text.as_bytes()).and_then(|()| output.flush()))?;
        signals.next().await;
        server.shutdown().await;
        Ok(())
    })
}

/// What a client has to know; the last lines can be given to a shell.
fn describe(endpoint_url: &str, options: &ServerOptions) -> String {
    let ServerOptions {
        access_key,
        secret_key,
        region,
        ..
    } = options;
    format!(
        "S3 store over {directory}, for this machine only, until Ctrl-C\n\
         endpoint    {endpoint_url}\n\
         access key  {access_key}\n\
         secret key  {secret_key}\n\
         region      {region}\n\
         \n\
         export AWS_ENDPOINT_URL={endpoint_url}\n\
         export AWS_ACCESS_KEY_ID={access_key}\n\
         export AWS_SECRET_ACCESS_KEY={secret_key}\n\
         export AWS_REGION={region}\n",
        directory = options.data_dir.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_client_needs_is_printed() {
        let mut options = ServerOptions::new("/data");
        options.access_key = "AK".into();
        options.secret_key = "SK".into();
        options.region = "r-1".into();
        let text = describe("http://127.0.0.1:1", &options);
        for line in [
            "export AWS_ENDPOINT_URL=http://127.0.0.1:1",
            "export AWS_ACCESS_KEY_ID=AK",
            "region      r-1",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }
}
