"""What `tollway reprice` and `tollway reconcile` have in common: up-to-date books to begin with, and posting."""
