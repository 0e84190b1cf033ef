package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Offsets and sizes in headers (RFC 791, RFC 8200, RFC 768, RFC 9293), and the kernel's numbers of protocol families.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
	destinationPort       = 2

	family4, family6 = 2, 10
)

// rawPriority is before connection tracking, which a flood would fill.
const rawPriority nftables.ChainPriority = -300

// Table is ours in the kernel. Its methods may be called concurrently.
type Table struct {
	mu       sync.Mutex // one transaction after the other
	table    *nftables.Table
	v4, v6   *nftables.Set
	source   *nftables.Chain
	isClosed bool
	// updates: adding an element that is there changes its timeout. Kernels before 6.12 leave it.
	updates bool
}

// Open makes the table, empty, in place of one that has its name.
func Open(o Options) (*Table, error) {
	o.Ports = slices.Clone(o.Ports)
	if err := o.validate(); err != nil {
		return nil, err
	}
	t := &Table{table: &nftables.Table{Name: o.Name, Family: nftables.TableFamilyINet}}
	t.v4 = &nftables.Set{Table: t.table, Name: "banned4", KeyType: nftables.TypeIPAddr, HasTimeout: true}
	t.v6 = &nftables.Set{Table: t.table, Name: "banned6", KeyType: nftables.TypeIP6Addr, HasTimeout: true}
	policy := nftables.ChainPolicyAccept
	arrival := &nftables.Chain{Table: t.table, Name: "arrival", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(rawPriority), Policy: &policy}
	t.source = &nftables.Chain{Table: t.table, Name: "source"}
	err := t.commit(func(c *nftables.Conn) error {
		c.AddTable(t.table) // so that there is one to delete
		c.DelTable(t.table)
		c.AddTable(t.table)
		if err := errors.Join(c.AddSet(t.v4, nil), c.AddSet(t.v6, nil)); err != nil {
			return err
		}
		c.AddChain(t.source)
		c.AddChain(arrival)
		c.AddRule(&nftables.Rule{Table: t.table, Chain: t.source, Exprs: dropSource(t.v4, family4)})
		c.AddRule(&nftables.Rule{Table: t.table, Chain: t.source, Exprs: dropSource(t.v6, family6)})
		for _, p := range o.Ports {
			c.AddRule(&nftables.Rule{Table: t.table, Chain: arrival, Exprs: gotoSource(p, t.source.Name)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.v4.ID, t.v6.ID = 0, 0 // they mean something only in the transaction that makes the sets
	if t.updates, err = t.probe(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// probe finds out about updates. Deleting and adding works everywhere, but a transaction that deletes waits for all
// processors, milliseconds for each ban.
func (t *Table) probe() (updates bool, err error) {
	key := []byte{192, 0, 2, 0} // nobody's (RFC 5737)
	const first, second = time.Hour, 2 * time.Hour
	for _, timeout := range []time.Duration{first, second} {
		if err := t.commit(func(c *nftables.Conn) error {
			return c.SetAddElements(t.v4, []nftables.SetElement{{Key: key, Timeout: timeout}})
		}); err != nil {
			return false, err
		}
	}
	list, err := new(nftables.Conn).GetSetElements(t.v4)
	if err != nil {
		return false, explain(err)
	}
	for _, e := range list {
		updates = updates || e.Timeout == second
	}
	return updates, t.commit(func(c *nftables.Conn) error {
		c.FlushSet(t.v4)
		return nil
	})
}

// dropSource is the rule for sources of one family.
func dropSource(set *nftables.Set, family byte) []expr.Any {
	e := isFamily(family)
	if family == family4 {
		e = append(e, load(expr.PayloadBaseNetworkHeader, source4, 4))
	} else {
		mask := make([]byte, 16)
		copy(mask, "\xff\xff\xff\xff\xff\xff\xff\xff")
		e = append(e, load(expr.PayloadBaseNetworkHeader, source6, 16),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: mask, Xor: make([]byte, 16)})
	}
	return append(e, &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}, &expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// gotoSource is the rule for one port of ours.
func gotoSource(p Port, chain string) []expr.Any {
	var e []expr.Any
	if p.Addr.IsValid() {
		family := byte(family4)
		if p.Addr.Is6() {
			family = family6
		}
		e = isFamily(family)
	}
	e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{byte(p.Proto)}))
	if p.Addr.IsValid() && !p.Addr.IsUnspecified() {
		offset := uint32(destination4)
		if p.Addr.Is6() {
			offset = destination6
		}
		a := p.Addr.AsSlice()
		e = append(e, load(expr.PayloadBaseNetworkHeader, offset, uint32(len(a))), equal(a))
	}
	return append(e, load(expr.PayloadBaseTransportHeader, destinationPort, 2), equal(binary.BigEndian.AppendUint16(nil, p.Port)),
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

func isFamily(family byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family})}
}

func load(from expr.PayloadBase, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: from, Offset: offset, Len: size}
}

func equal(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

// Add bans sources, or bans them anew with another timeout.
func (t *Table) Add(all []Element) error {
	return t.change(all, func(c *nftables.Conn, set *nftables.Set, keys []nftables.SetElement) error {
		if t.updates {
			return c.SetAddElements(set, keys)
		}
		return errors.Join(c.SetAddElements(set, keys), c.SetDeleteElements(set, bare(keys)), c.SetAddElements(set, keys))
	})
}

// Remove lifts bans; there need not be any.
func (t *Table) Remove(all []Element) error {
	return t.change(all, func(c *nftables.Conn, set *nftables.Set, keys []nftables.SetElement) error {
		// The kernel does not delete what is not there.
		return errors.Join(c.SetAddElements(set, keys), c.SetDeleteElements(set, bare(keys)))
	})
}

// Sync makes the sets hold exactly these. Where they do not fit into one transaction, some sources are free for
// milliseconds.
func (t *Table) Sync(all []Element) error {
	if _, _, err := sorted(all); err != nil {
		return err
	}
	t.mu.Lock()
	err := t.commitOpen(func(c *nftables.Conn) error {
		c.FlushSet(t.v4)
		c.FlushSet(t.v6)
		return nil
	})
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return t.change(all, func(c *nftables.Conn, set *nftables.Set, keys []nftables.SetElement) error {
		return c.SetAddElements(set, keys)
	})
}

var errGone = errors.New("the table is gone")

// Dropped returns what the table dropped since Open. It fails when somebody took it away.
func (t *Table) Dropped() (packets, bytes uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isClosed {
		return 0, 0, os.ErrClosed
	}
	c, err := nftables.New()
	if err != nil {
		return 0, 0, explain(err)
	}
	rules, err := c.GetRules(t.table, t.source)
	if err != nil {
		return 0, 0, explain(err)
	}
	if len(rules) == 0 {
		return 0, 0, errGone
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if n, ok := e.(*expr.Counter); ok {
				packets, bytes = packets+n.Packets, bytes+n.Bytes
			}
		}
	}
	return packets, bytes, nil
}

// Close removes the table. It may be called twice.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isClosed {
		return nil
	}
	t.isClosed = true
	return t.commit(func(c *nftables.Conn) error {
		c.AddTable(t.table) // somebody may have deleted it, with all other rules
		c.DelTable(t.table)
		return nil
	})
}

type step func(c *nftables.Conn, set *nftables.Set, keys []nftables.SetElement) error

// change does step to the elements, batchSize at a time. What failed leaves its batch undone, not the others.
func (t *Table) change(all []Element, do step) error {
	v4, v6, err := sorted(all)
	if err != nil {
		return err
	}
	var errs []error
	for set, list := range map[*nftables.Set][]Element{t.v4: v4, t.v6: v6} {
		for part := range slices.Chunk(list, batchSize) {
			keys := make([]nftables.SetElement, len(part))
			for i, e := range part {
				keys[i] = nftables.SetElement{Key: e.Prefix.Addr().AsSlice(), Timeout: e.Timeout}
			}
			errs = append(errs, t.changeOne(set, keys, do))
		}
	}
	return errors.Join(errs...)
}

func (t *Table) changeOne(set *nftables.Set, keys []nftables.SetElement, do step) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	const tries = 3 // an element may end between the add that finds it and the delete
	var err error
	for range tries {
		err = t.commitOpen(func(c *nftables.Conn) error { return do(c, set, keys) })
		if !errors.Is(err, syscall.ENOENT) {
			break
		}
	}
	return err
}

// bare are the elements without their timeouts, which a delete must not have.
func bare(keys []nftables.SetElement) []nftables.SetElement {
	all := make([]nftables.SetElement, len(keys))
	for i, k := range keys {
		all[i].Key = k.Key
	}
	return all
}

func (t *Table) commitOpen(fill func(*nftables.Conn) error) error {
	if t.isClosed {
		return os.ErrClosed
	}
	return t.commit(fill)
}

// commit is one transaction on a socket of its own: after an error there are no answers left over.
func (t *Table) commit(fill func(*nftables.Conn) error) error {
	c, err := nftables.New()
	if err == nil {
		if err = fill(c); err == nil {
			err = c.Flush()
		}
	}
	return explain(err)
}

func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return ErrPermission
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("nftables: %w", err)
}
