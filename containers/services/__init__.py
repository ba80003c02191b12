"""What is done to relays. Nothing here speaks to a server: that is `containers.jobs`."""
