//! What TLS trusts: the system's roots, plus a bundle that the user names.

use crate::base::error::{Error, ErrorKind, Result};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;

/// Reads the trusted certificates. Blocking (files).
///
/// # Errors
/// `Invalid` when the bundle cannot be read or has no certificate in it.
pub(super) fn client_config(ca_bundle: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_bundle {
        let invalid = |what: String| {
            Error::new(
                ErrorKind::Invalid,
                format!("CA bundle {}: {what}", path.display()),
            )
        };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| invalid(error.to_string()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(invalid("no certificate in it".to_owned()));
        }
    } else if added == 0 {
        tracing::warn!("the system has no trusted certificates; https will fail without a CA bundle");
    }
    with_roots(roots)
}

/// Trusts nobody: for connections that are never https.
pub(super) fn no_trust() -> Result<ClientConfig> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("TLS set-up: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("bundle.pem");
        std::fs::write(&path, "nothing here\n").expect("write");
        let error = client_config(Some(&path)).expect_err("no certificate");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("bundle.pem"), "{error}");
    }
}
