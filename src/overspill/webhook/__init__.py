"""The admission webhook: what MutatingAdmissionPolicies do from Kubernetes 1.36 on, for apiservers without them."""
