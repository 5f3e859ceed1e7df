//! Promises of the listener, over real sockets.
