//! Cases that end the machine on purpose: each must leave an epitaph that names what happened and where.

use ebb_boot::cases::Ends;
use ebb_boot::{case, fault};

case!(
    "fault.null_read",
    |_| {
        fault::null_read();
        Err("a read of the null page returned".into())
    },
    Ends::Epitaph { what: "page fault", through: "fault::null_read" }
);

case!(
    "fault.stack_overflow",
    |_| {
        fault::overflow_stack();
        Err("an endless recursion returned".into())
    },
    Ends::Epitaph { what: "double fault", through: "fault::overflow_stack" }
);

case!(
    "fault.panic",
    |_| {
        fault::panic();
        Err("a panic returned".into())
    },
    Ends::Epitaph { what: "panic", through: "fault::panic" }
);

case!(
    "fault.invalid_opcode",
    |_| {
        fault::invalid_opcode();
        Err("an invalid opcode was executed".into())
    },
    Ends::Epitaph { what: "invalid opcode", through: "fault::invalid_opcode" }
);

case!(
    "fault.write_text",
    |_| {
        fault::write_text();
        Err("code was written to".into())
    },
    Ends::Epitaph { what: "page fault", through: "fault::write_text" }
);

case!(
    "fault.write_text_alias",
    |_| {
        fault::write_text_alias();
        Err("code was written to through the direct map".into())
    },
    Ends::Epitaph { what: "page fault", through: "fault::write_text_alias" }
);

case!(
    "fault.execute_data",
    |_| {
        fault::execute_data();
        Err("data was executed".into())
    },
    Ends::Epitaph { what: "page fault", through: "fault::execute_data" }
);
