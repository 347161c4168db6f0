//! The `postwarm` binary.

use std::process::exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // The one TLS provider of the process, before anything makes a connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    exit(postwarm::cli::run::run(std::env::args_os()));
}
