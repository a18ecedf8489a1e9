"""The pure part of the sink: which records count, what a batch is, where to go on, what may be asked."""
