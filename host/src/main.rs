//! The `postwarm` binary.

use std::process::exit;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // With huge pages the heaps of its threads hold twice the memory that they use. A kernel that has none says so.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // The one TLS provider of the process, before anything makes a connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    exit(postwarm::cli::run::run(std::env::args_os()));
}
