//! The binary: everything is in the library, but for what is one for a whole program.

/// What a request allocates is most of what it costs in CPU time beside the kernel: docs/DECISIONS.md has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    pailfs::cli::run()
}
