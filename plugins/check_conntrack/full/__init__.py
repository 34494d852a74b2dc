"""check_conntrack_full: tell whether the table has been full, when, and what was lost."""
