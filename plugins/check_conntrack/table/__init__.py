"""check_conntrack_table: tell what fills the table, why, and what to do."""
