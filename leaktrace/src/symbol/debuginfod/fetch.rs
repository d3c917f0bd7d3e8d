//! One debug file from one of the servers, by HTTP (debuginfod(8), "WEBAPI"): bounded in time and size, and
//! taken only if it is whole and has the build id that was asked for.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

use super::store::Store;
use crate::symbol::content::Content;
use crate::symbol::debug_file::hexadecimal;

/// How long a server may take to begin its answer, unless `DEBUGINFOD_TIMEOUT` says otherwise: elfutils' default.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How long a whole file may take, unless `DEBUGINFOD_MAXTIME` says otherwise.
const MAX_TIME: Duration = Duration::from_mins(15);

/// Largest file taken, unless `DEBUGINFOD_MAXSIZE` says otherwise: that of a browser engine is 2 GB.
const MAX_BYTES: u64 = 4 << 30;

/// Where distributions keep the certificates that the machine's owner trusts.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Asks the servers in their order.
pub(super) struct Client {
    urls: Vec<String>,
    agent: Agent,
    max_bytes: u64,
}

impl Client {
    /// `None` where `DEBUGINFOD_URLS` names no server.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let urls = variable("DEBUGINFOD_URLS")?;
        let urls: Vec<String> = urls
            .to_string_lossy()
            .split_whitespace()
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        if urls.is_empty() {
            return None;
        }
        let number = |name| {
            variable(name)?
                .to_str()?
                .trim()
                .parse::<u64>()
                .ok()
                .filter(|number| *number > 0)
        };
        let timeout = number("DEBUGINFOD_TIMEOUT").map_or(TIMEOUT, Duration::from_secs);
        let max_time = number("DEBUGINFOD_MAXTIME").map_or(MAX_TIME, Duration::from_secs);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(timeout))
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .timeout_global(Some(max_time))
            .user_agent(concat!("leaktrace/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(trusted(&variable)).build())
            .build();
        Some(Self {
            urls,
            agent: config.into(),
            max_bytes: number("DEBUGINFOD_MAXSIZE").unwrap_or(MAX_BYTES),
        })
    }

    /// Gets the debug file of a build id, in hexadecimal, into the store. Whether a server has it.
    ///
    /// # Errors
    /// A sentence, when no server has given it and not all have said that they do not have it.
    pub(super) fn fetch(&self, build_id: &str, store: &Store) -> Result<bool, String> {
        let mut failed = None;
        for url in &self.urls {
            match self.fetch_from(url, build_id, store) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(format!("{url}: {error}"))),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => store
                .note_absent(build_id)
                .map(|()| false)
                .map_err(|error| error.to_string()),
        }
    }

    fn fetch_from(&self, url: &str, build_id: &str, store: &Store) -> Result<bool, String> {
        let address = format!("{url}/buildid/{build_id}/debuginfo");
        let mut response = self
            .agent
            .get(&address)
            .call()
            .map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(false),
            status => return Err(format!("the server answers with status {status}")),
        }
        tracing::info!("fetching {address}");
        let body = response.body_mut().as_reader();
        self.receive(body, build_id, store)
            .map_err(|error| error.to_string())?;
        Ok(true)
    }

    fn receive(&self, body: impl Read, build_id: &str, store: &Store) -> io::Result<()> {
        let mut file = store.begin(build_id)?;
        let mut body = body.take(self.max_bytes.saturating_add(1));
        let written = io::copy(&mut body, &mut file)?;
        if written > self.max_bytes {
            let what = format!(
                "the file is larger than {} bytes; raise DEBUGINFOD_MAXSIZE",
                self.max_bytes
            );
            return Err(io::Error::other(what));
        }
        file.flush()?;
        let content = Content::read(file.as_file());
        let found = content
            .and_then(|content| content.build_id)
            .map(|id| hexadecimal(&id));
        match found {
            Some(found) if found == build_id => store.keep(build_id, file),
            Some(found) => Err(io::Error::other(format!(
                "the server sent the file of build id {found}"
            ))),
            None => Err(io::Error::other(
                "the server sent what is no ELF file with a build id",
            )),
        }
    }
}

/// Whom to trust: whom this machine trusts, for servers within a company; else what Mozilla trusts.
fn trusted(variable: impl Fn(&str) -> Option<OsString>) -> RootCerts {
    let named = variable("SSL_CERT_FILE").map(PathBuf::from);
    let places = named.into_iter().chain(CERTIFICATES.iter().map(PathBuf::from));
    let certificates: Option<Vec<Certificate<'static>>> =
        places.filter_map(|path| fs::read(path).ok()).find_map(|text| {
            let certificates: Vec<_> = ureq::tls::parse_pem(&text)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            (!certificates.is_empty()).then_some(certificates)
        });
    certificates.map_or(RootCerts::WebPki, |certificates| {
        RootCerts::new_with_certs(&certificates)
    })
}
