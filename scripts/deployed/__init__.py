"""`make deploy-check`: the deployment of docker/ without a container engine, and put to the test."""
