"""State kept between runs: the store, the count history, the counter history."""
