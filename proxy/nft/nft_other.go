//go:build !linux

package nft

// Table is what Open would return.
type Table struct{}

// Open returns ErrUnsupported.
func Open(Options) (*Table, error) { return nil, ErrUnsupported }

// Add returns ErrUnsupported.
func (t *Table) Add([]Element) error { return ErrUnsupported }

// Remove returns ErrUnsupported.
func (t *Table) Remove([]Element) error { return ErrUnsupported }

// Sync returns ErrUnsupported.
func (t *Table) Sync([]Element) error { return ErrUnsupported }

// Dropped returns ErrUnsupported.
func (t *Table) Dropped() (packets, bytes uint64, err error) { return 0, 0, ErrUnsupported }

// Close does nothing.
func (t *Table) Close() error { return nil }
