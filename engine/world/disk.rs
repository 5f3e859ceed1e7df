//! Files and folders. Every write that must survive is synced, with its folder.
