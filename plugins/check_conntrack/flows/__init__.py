"""The table's arithmetic: decode, filter, count; one pass, bounded memory, no I/O of its own."""
