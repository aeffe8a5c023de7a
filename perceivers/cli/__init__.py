"""The sub-commands of `perceivers`. The entry module is `perceivers_cli`, beside the package."""
