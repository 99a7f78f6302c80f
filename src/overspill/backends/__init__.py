"""Where a pod really runs. A backend imports neither `kube` nor `agent`."""
