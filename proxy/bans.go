package proxy

// Bans lists the bans that match, the oldest first.
func (e *Edge) Bans(BanFilter) []BanInfo { return nil }

// Ban finds the ban of a key.
func (e *Edge) Ban(string) (BanInfo, bool) { return BanInfo{}, false }

// AddBan bans what an operator names. A trusted source is refused.
func (e *Edge) AddBan(NewBan) (BanInfo, error) { return BanInfo{}, nil }

// RemoveBan lifts the ban of a key and forgets what was counted: the next message
// passes. It returns the ban as it was, false when there was none.
func (e *Edge) RemoveBan(string) (BanInfo, bool, error) { return BanInfo{}, false, nil }

// FlushBans lifts all bans and returns how many there were.
func (e *Edge) FlushBans() int { return 0 }

// ImportBans takes over bans of an export. What is over, trusted or banned already is skipped.
func (e *Edge) ImportBans([]BanInfo) (added, skipped int, err error) { return 0, 0, nil }

// Explain says what happens to a message of a source or a user now, and why.
func (e *Edge) Explain(string) (Explanation, error) { return Explanation{}, nil }

// SecurityStats returns what the protections did since the start.
func (e *Edge) SecurityStats() SecurityStats { return SecurityStats{} }
