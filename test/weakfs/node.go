package weakfs

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Change is something that was changed, or is about to be, through a mount.
type Change struct {
	// Mount is the number of the mount.
	Mount int `json:"mount"`
	// Op is one of: rename, unlink, rmdir, mkdir, create, symlink, link.
	Op string `json:"op"`
	// Path is below the volume, and To as well, where there is one.
	Path string `json:"path"`
	To   string `json:"to,omitempty"`
}

// order has names change one after the other, and told of in that order.
type order struct {
	mu sync.Mutex
	// judged says whether before is to be asked about a path.
	judged func(path string) bool
	before func(Change)
	after  func(Change)
}

// do changes names.
func (o *order) do(c Change, change func() syscall.Errno) syscall.Errno {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.judged(c.Path) || o.judged(c.To) {
		o.before(c)
	}
	errno := change()
	if errno == 0 && (o.judged(c.Path) || o.judged(c.To)) {
		o.after(c)
	}
	return errno
}

// node is a file or folder by one mount.
type node struct {
	fs.LoopbackNode
	mount int
	order *order
}

// WrapChild implements fs.NodeWrapChilder.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, mount: n.mount, order: n.order}
}

func (n *node) at(name string) string {
	return filepath.Join(n.Path(n.RootData.RootNode.EmbeddedInode()), name)
}

func (n *node) change(op, name string) Change {
	return Change{Mount: n.mount, Op: op, Path: n.at(name)}
}

// Rename implements fs.NodeRenamer.
func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	c := n.change("rename", name)
	if to, ok := newParent.(*node); ok {
		c.To = to.at(newName)
	}
	return n.order.do(c, func() syscall.Errno { return n.LoopbackNode.Rename(ctx, name, newParent, newName, flags) })
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.order.do(n.change("unlink", name), func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.order.do(n.change("rmdir", name), func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) })
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.order.do(n.change("mkdir", name), func() (errno syscall.Errno) {
		child, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return errno
	})
	return child, errno
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (child *fs.Inode, fh fs.FileHandle, fuseFlags uint32, errno syscall.Errno) { //nolint:revive // the interface's results
	errno = n.order.do(n.change("create", name), func() (errno syscall.Errno) {
		child, fh, fuseFlags, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		return errno
	})
	return child, fh, fuseFlags, errno
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.order.do(n.change("symlink", name), func() (errno syscall.Errno) {
		child, errno = n.LoopbackNode.Symlink(ctx, target, name, out)
		return errno
	})
	return child, errno
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.order.do(n.change("link", name), func() (errno syscall.Errno) {
		child, errno = n.LoopbackNode.Link(ctx, target, name, out)
		return errno
	})
	return child, errno
}

// newRoot is the volume by one mount.
func newRoot(dir string, mount int, o *order) (fs.InodeEmbedder, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return nil, err
	}
	data := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	root := &node{LoopbackNode: fs.LoopbackNode{RootData: data}, mount: mount, order: o}
	data.RootNode = root
	return root, nil
}

// below says whether a path is one of these, or in one of them.
func below(path string, folders []string) bool {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}
