"""What more than one step needs: the data contract, errors, logging, arguments."""
