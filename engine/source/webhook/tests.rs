//! Promises of the webhook, over real sockets.
