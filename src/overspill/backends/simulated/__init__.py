"""The `simulated` backend: pods without containers, in this process, as many as memory allows.

`options` and `script` say what pods do, `life` plays it, `cloud` keeps the pods and their time,
`backend` is the contract; `output`, `shell`, `streams` and `usage` answer who looks into a pod.
"""
