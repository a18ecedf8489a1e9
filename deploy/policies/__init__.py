"""Policy documents that come with Tollway."""
