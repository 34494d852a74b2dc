"""check_conntrack_usage: tell how full the table is, and when it will be full."""
