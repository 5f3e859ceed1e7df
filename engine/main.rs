//! The program `crossdock`: arguments in, exit code out.

fn main() {}
