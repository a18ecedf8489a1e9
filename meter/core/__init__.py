"""The pure fold: log records in; rows, shares, ledgers, faults, snapshots and changelog records out."""
