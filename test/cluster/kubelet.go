package cluster

import "fmt"

// NodeKubeconfig writes a kubeconfig for the kubelet of a Node: the user system:node:NAME in the group system:nodes, to
// whom the API server allows what concerns that Node and its pods. The Node need not exist: a kubelet makes it.
func (c *Cluster) NodeKubeconfig(node string) (string, error) {
	user := "system:node:" + node
	pair, err := c.authority.client(user, "system:nodes")
	if err != nil {
		return "", fmt.Errorf("sign the certificate of %s: %w", user, err)
	}
	path := c.layout.kubeconfig("node_" + node)
	if err := writeKubeconfig(path, c.config.Host, c.ca, certUser(pair)); err != nil {
		return "", err
	}
	return path, nil
}

// CAPath is the file of the authority that signs every certificate of the cluster.
func (c *Cluster) CAPath() string { return c.layout.pki(caFile) }
