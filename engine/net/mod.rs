//! Clients and servers that parts share: http, tls. They know nothing of flows.
