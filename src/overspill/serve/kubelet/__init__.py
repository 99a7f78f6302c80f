"""The kubelet API of one virtual node: HTTPS on port 10250, as the apiserver and scrapers know it."""
