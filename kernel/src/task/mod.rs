//! Threads: placeholder
mod list;
mod timer;
