//! TLS towards the server: rustls, with certificates of the configured authority or the system's.

use super::settings::SslMode;
use crate::SinkError;
use crate::sql::permanent;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where distributions keep the certificates of the authorities that they trust.
const SYSTEM_FILES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// How connections are encrypted, or `None` where they aren't.
pub(super) fn connector(
    mode: SslMode,
    ca_file: Option<&Path>,
) -> Result<Option<MakeRustlsConnect>, SinkError> {
    if mode == SslMode::Disable {
        return Ok(None);
    }
    let failed = |error: Error| {
        permanent(
            "setting up TLS",
            error.to_string(),
            "check `ca_file` and `sslmode`",
        )
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let config = match mode {
        SslMode::VerifyFull => builder.with_root_certificates(roots(ca_file)?),
        SslMode::VerifyCa | SslMode::Require | SslMode::Disable => {
            let authority = if mode == SslMode::VerifyCa {
                let roots = Arc::new(roots(ca_file)?);
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                        .build()
                        .map_err(|error| failed(Error::General(error.to_string())))?;
                Some(verifier)
            } else {
                None
            };
            let lenient = Lenient {
                authority,
                provider,
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(lenient))
        }
    };
    Ok(Some(MakeRustlsConnect::new(config.with_no_client_auth())))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, SinkError> {
    let reading = |path: &Path| {
        format!(
            "reading the certificates of authorities in {}",
            path.display()
        )
    };
    let path = match ca_file {
        Some(path) => path,
        None => SYSTEM_FILES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or_else(|| {
                permanent(
                    "looking for the system's certificates of authorities",
                    format!("there is none of {SYSTEM_FILES:?}"),
                    "install ca-certificates, or name the authority's certificate in `ca_file`",
                )
            })?,
    };
    let next = "name a file with certificates (PEM) in `ca_file`";
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| permanent(reading(path), error.to_string(), next))?;
    for certificate in certificates {
        let certificate =
            certificate.map_err(|error| permanent(reading(path), error.to_string(), next))?;
        // Of the system's, some may be of a kind that isn't known here; of the configured, all have to be.
        match roots.add(certificate) {
            Err(error) if ca_file.is_some() => {
                return Err(permanent(reading(path), error.to_string(), next));
            }
            _ => {}
        }
    }
    if roots.is_empty() {
        return Err(permanent(
            reading(path),
            "there is no certificate in it",
            next,
        ));
    }
    Ok(roots)
}

/// What `require` and `verify-ca` mean: any name will do, and without an authority any certificate.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = authority.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // The name is looked at last, when all the rest was found to be good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
