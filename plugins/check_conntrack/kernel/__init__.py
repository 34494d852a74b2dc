"""What Linux says about connection tracking, as plain values."""
