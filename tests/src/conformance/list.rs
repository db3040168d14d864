//! The list of all cases, with the statement that each holds Xen to.

use super::{Case, Env, delivery, event, hvm, hypercall, malformed, memory, sched, tmem, vcpu, version};
use ebb::units::Frames;

/// Hands the list of cases to a macro of the caller's: `area { name: "fact"; … }`, or `name [leaks]: "fact";` for
/// a case after which some frames stay charged for the domain's life.
#[macro_export]
macro_rules! for_each_case {
    ($to:ident) => {
        $to! {
            memory {
                release_then_populate_order_0:
                    "a released frame is a hole and leaves tot_pages by one; a populated one comes back";
                release_then_populate_order_9: "so does a block, by 512";
                release_then_populate_list: "a list of 512 frames counts 512, again and again";
                orders_between_work: "every order from 1 to 8 is released and populated";
                released_as_frames_populates_as_block: "what went frame by frame can come back as a block";
                released_as_block_populates_as_frames: "what went as a block can come back frame by frame";
                a_hole_reads_all_ones: "reading a hole answers all ones, without a fault";
                a_hole_swallows_writes: "writing to a hole changes nothing, without a fault";
                populated_memory_keeps_what_is_written: "populated memory is memory, every word of it";
                frames_of_a_block_are_distinct: "a populated block is 512 different frames";
                neighbours_keep_their_content: "splitting a block moves nothing";
                releasing_twice_does_nothing: "a hole cannot be released";
                a_duplicate_ends_a_release: "a frame that is twice in a list ends it the second time";
                a_release_ends_at_a_hole:
                    "a list ends at the first hole; what is before it is gone, what is after it stays";
                a_half_failed_block_loses_its_beginning:
                    "a block with a hole counts 0, its frames before the hole are gone, and trying again \
does nothing";
                memory_can_be_anywhere: "a frame can be populated outside the memory map";
                alignment_is_not_checked: "a block can be populated at an odd frame number";
                over_allocation_is_refused_to_the_frame:
                    "a block beyond max_pages is refused whole, single frames are granted up to the limit \
and not beyond";
                a_released_block_makes_room: "what was released can be had elsewhere";
                populating_memory_leaks_it [1]:
                    "populating a frame that has memory succeeds and charges twice; only one can be \
released";
                increase_reservation_charges_for_nothing [1]:
                    "increase_reservation charges a frame and maps it nowhere";
                reservations_are_plausible: "tot_pages and max_pages can be asked for";
                maximum_gpfn_covers_the_special_pages: "the highest frame is at least the console's";
                the_memory_map_has_ram: "the memory map covers RAM, and fills no more than its buffer";
                ballooning_leaves_the_memory_map: "the memory map is a snapshot";
                the_shared_info_page_moves: "mapping the shared info page again moves it";
                unmapping_a_hole_is_enoent: "remove_from_physmap of a hole is ENOENT";
                a_grant_frame_beyond_the_table_is_einval: "the grant table has a limit";
            }
            malformed {
                an_empty_list_is_done: "no extents are no work";
                the_largest_order_is_nine: "an unprivileged domain's extents have at most order 9";
                an_order_above_nine_does_nothing: "above it a call answers 0";
                too_long_a_list_does_nothing: "more than 0x3FFFFFF extents answer 0";
                another_domain_is_out_of_reach: "another domain's number answers 0";
                a_structure_nowhere_does_nothing: "a reservation structure that cannot be read answers 0";
                other_commands_fault_on_a_structure_nowhere: "other commands answer EFAULT";
                a_list_nowhere_does_nothing: "a list that cannot be read answers 0";
                a_list_in_a_hole_does_nothing: "a list in a released frame cannot be read";
                a_list_is_read_entry_by_entry: "a list that runs into a hole is processed up to there";
                progress_bits_skip_extents: "progress above the command's bits skips extents, which count";
                progress_bits_beyond_the_list_are_the_answer: "progress beyond the list is answered as it is";
                progress_bits_on_a_query_are_einval: "a query takes no progress";
                populate_on_demand_is_not_for_oneself:
                    "a domain cannot mark its own frames populate-on-demand";
                an_exact_node_does_nothing: "a domU cannot insist on a node";
                a_narrow_address_does_nothing: "an address width within a page answers 0";
                queries_are_about_oneself: "reservations of dom0 are EPERM, of no domain ESRCH";
                there_is_one_shared_info_page: "shared info index 1 is EINVAL";
                device_memory_is_not_ours: "mapping device memory is EACCES";
                a_foreign_frame_needs_the_batch_form: "the plain call maps no foreign frames: ENOSYS";
                the_toolstacks_commands_are_refused: "get_pod_target is EPERM, machine_memory_map ENOSYS";
                moving_a_frame_leaves_a_hole:
                    "add_to_physmap moves a frame with its content, and charges nothing";
                a_long_list_is_restarted_unseen: "the count of a preempted call is the whole call's";
                a_count_beyond_the_map_stops_at_its_end: "unused frame numbers are holes";
            }
            event {
                a_new_port_waits_for_its_remote: "alloc_unbound answers an unbound port, never port 0";
                a_port_for_dom0_says_so: "the status of an unbound port names its remote";
                ports_of_a_loop_name_each_other:
                    "a domain can bind its own port, and both ends name the other";
                the_binding_end_is_pending_once: "bind_interdomain leaves the new port pending";
                binding_to_nobody_is_esrch: "an unknown remote domain is ESRCH";
                binding_to_a_port_that_does_not_wait_is_einval: "a bound port, or port 0, is EINVAL";
                binding_to_a_port_for_another_is_einval: "a port that waits for another domain is EINVAL";
                a_closed_port_is_closed: "a closed port says so; closing or sending again is EINVAL";
                the_lowest_free_port_is_next: "ports are used again, lowest first";
                closing_clears_pending: "closing a port clears its pending bit";
                closing_one_end_frees_the_other: "the other end waits again";
                an_event_for_nobody_is_dropped: "sending on an unbound port succeeds and does nothing";
                ports_0_and_beyond_are_einval: "port 0 and ports beyond the table are EINVAL";
                a_virq_binds_once:
                    "a virtual interrupt is bound once per vCPU (EEXIST), and nobody can send it";
                the_timer_is_bound_already: "so is the timer";
                a_virq_of_no_vcpu_is_enoent: "an unknown vCPU is ENOENT";
                an_unknown_virq_is_einval: "an unknown virtual interrupt is EINVAL";
                an_ipi_interrupts_its_vcpu: "sending on an IPI port makes it pending itself";
                an_ipi_to_no_vcpu_is_enoent: "an unknown vCPU is ENOENT";
                ports_run_out_with_enospc: "after port 1023 there is ENOSPC";
                an_unknown_command_is_enosys: "an unknown command is ENOSYS";
                a_structure_nowhere_faults: "a structure that cannot be read is EFAULT";
            }
            delivery {
                an_event_arrives_at_the_other_end: "send sets the pending bit of the other end, either way";
                an_event_raises_an_upcall:
                    "an event on an unmasked port selects its word and raises the upcall";
                a_masked_port_stays_silent: "an event on a masked port sets its pending bit and nothing else";
                unmasking_raises_what_was_pending: "unmask selects and raises a port that was pending";
                unmasking_an_idle_port_raises_nothing: "unmask of a port that was not pending raises nothing";
                unmasking_twice_raises_once: "unmask of a port that is not masked raises nothing";
                a_pending_port_is_mute: "an event on a port that is still pending raises nothing";
                an_event_after_the_acknowledgement_is_not_lost:
                    "an event after the pending bit was cleared raises again";
                a_clear_by_hand_unmasks_for_the_next:
                    "clearing the mask bit by hand raises nothing, and lets the next event through";
                an_event_between_look_and_wait_ends_the_wait: "an upcall that is due ends sti; hlt at once";
                a_wait_wakes_again_and_again: "and every further one, too";
            }
            sched {
                a_pending_port_ends_a_poll_at_once:
                    "a poll returns when a port is pending, masked or not, and leaves it pending";
                any_port_of_the_list_will_do: "any port of the list ends a poll";
                a_poll_times_out: "a poll ends at its deadline, with success, not before it";
                a_poll_of_nothing_is_a_sleep: "a poll of no ports waits for its deadline";
                a_deadline_in_the_past_does_not_wait: "a deadline in the past, 0 included, ends a poll";
                more_than_128_ports_are_einval: "128 ports are allowed, 129 are not";
                a_port_that_does_not_exist_is_einval: "a port beyond the table is EINVAL";
                yielding_returns: "a yield returns";
                a_structure_nowhere_faults: "a structure that cannot be read is EFAULT";
                an_unknown_command_is_enosys: "an unknown command is ENOSYS";
            }
            vcpu {
                the_own_vcpu_is_up: "a vCPU that asks is up";
                past_the_end_is_enoent: "an unknown vCPU is ENOENT, whatever is asked";
                a_timer_in_the_past_fires_at_once: "a time in the past is an event at once";
                a_timer_does_not_fire_early: "a time in the future is an event then, not before";
                a_timer_fires_once: "one shot is one event";
                a_stopped_timer_does_not_fire: "a stopped timer is silent";
                arming_again_replaces: "there is one timer, and the last time counts";
                anothers_timer_is_einval: "only the vCPU itself sets its timer";
                the_register_form_is_the_same_timer: "set_timer_op sets and, with 0, stops it";
                a_running_vcpu_is_not_initialised_again: "initialising a vCPU twice is EEXIST";
            }
            version {
                it_is_xen_4_or_later: "the version is 4 or later";
                the_extra_version_is_text: "the extra version is text";
                frames_are_translated: "the feature bits are those of a PVH guest";
                unknown_features_are_einval: "an unknown submap is EINVAL";
                pages_have_4096_bytes: "a page has 4096 bytes";
                a_structure_nowhere_faults: "a structure that cannot be written is EFAULT";
                an_unknown_command_is_enosys: "an unknown command is ENOSYS";
            }
            hvm {
                xenstore_has_a_ring: "the parameters name xenstore's ring: RAM, and a port to dom0";
                the_console_has_a_ring: "and the console's";
                the_rings_frames_are_the_toolstacks: "a domU cannot write the rings' frames: EPERM";
                a_port_can_be_written: "it can write the rings' ports";
                a_device_models_parameter_is_eperm: "parameters of the device model are EPERM";
                parameters_past_the_end_are_einval: "a parameter past the end is EINVAL";
                an_exception_is_no_upcall_vector: "a vector below 16 is EINVAL";
                an_upcall_vector_of_no_vcpu_is_enoent: "an unknown vCPU is ENOENT";
                devices_and_holes_look_alike: "a device's frame and a hole have the same type, RAM another";
                a_structure_nowhere_faults: "a structure that cannot be read is EFAULT";
            }
            hypercall {
                an_unknown_number_is_enosys: "an unknown hypercall is ENOSYS";
                a_pv_call_is_enosys: "a call for PV guests is ENOSYS";
                tmem_is_gone: "tmem_op is ENOSYS since Xen 4.13";
                a_multicall_answers_each: "a multicall answers each of its calls";
            }
            tmem {
                s001_absent_is_enosys: "where tmem is not compiled in, everything is ENOSYS";
                s002_switched_off_is_enodev: "where it is switched off, everything is ENODEV";
                s003_an_unreadable_argument_is_efault:
                    "an argument that cannot be read is EFAULT, and makes no client";
                s004_moved_commands_are_eopnotsupp: "commands that became the toolstack's are EOPNOTSUPP";
                s005_a_pool_never_made_is_enodev: "a pool that was never made is ENODEV";
                s006_ids_beyond_the_table_are_enodev: "so are ids beyond the table";
                s007_destroying_nothing_is_0: "destroying no pool is 0";
                s008_unknown_commands_depend_on_the_pool:
                    "an unknown command is ENOSYS on a pool that is there, ENODEV on one that is not";
                s009_old_commands_do_nothing: "commands of old versions are ENOSYS and do nothing";
                s010_a_policy_that_refuses_is_eperm:
                    "a policy that refuses is EPERM, ahead of every other check";
                s011_a_dying_client_is_enodev: "a dying domain that is a client is refused with ENODEV";
                s012_ids_begin_at_0: "the ids of a fresh client begin at 0";
                s013_other_versions_are_refused: "versions other than 1 are EPERM";
                s014_persistent_and_shared_is_refused: "persistent and shared together are EPERM";
                s015_other_page_sizes_are_refused: "page sizes other than 4 KiB are EPERM";
                s016_precompressed_is_refused: "precompressed is EPERM";
                s017_reserved_flags_are_refused: "a reserved flag is EPERM";
                s018_bit_3_is_not_looked_at: "flag bit 3 is ignored";
                s019_arg1_and_pool_id_are_not_looked_at: "arg1 and pool_id are ignored when a pool is made";
                s020_there_are_sixteen_pools: "a domain has sixteen pools; the 17th is EPERM";
                s021_the_lowest_free_id_is_next: "the lowest free id is next";
                s022_freed_ids_come_before_new_ones: "so freed ones come before new ones";
                s023_ids_are_each_domains_own: "ids are each domain's own";
                s024_a_private_pools_uuid_means_nothing: "the uuid of a private pool means nothing";
                s025_a_refused_pool_changes_nothing: "a refused pool changes nothing";
                s026_an_empty_pool_says_so: "a get from a persistent pool without pages is EEMPTY";
                s027_what_was_put_is_got: "what was put is got";
                s028_again_and_again: "again and again";
                s029_the_last_put_counts: "the last put counts";
                s030_other_names_miss: "other names miss, and leave the frame alone";
                s031_the_copy_is_a_copy: "the copy is a copy";
                s032_the_source_stays: "a put leaves the frame alone";
                s033_a_frame_can_be_put_and_got_back: "a frame can be put and got back";
                s034_all_three_words_of_an_object_count: "all three words of an object's name count";
                s035_extreme_names_are_names: "all bits of a name may be ones";
                s036_pools_are_independent: "pools are independent";
                s037_domains_are_independent: "so are domains";
                s038_a_flushed_page_misses: "a flushed page misses";
                s039_flushing_nothing_changes_nothing: "flushing nothing is 1 and changes nothing";
                s040_an_object_is_flushed_whole: "flushing an object flushes all its pages";
                s041_flushing_no_object_is_1: "flushing no object is 1";
                s042_other_objects_stay: "other objects stay";
                s043_flushing_twice_is_1_twice: "flushing twice is 1 twice";
                s044_a_pool_is_destroyed_once: "a pool is destroyed once";
                s045_a_new_pool_is_empty: "a new pool with an old id is empty";
                s046_a_bad_frame_stores_nothing: "a put from a bad frame is EFAULT and stores nothing";
                s047_a_bad_frame_loses_what_was_there: "over an old page it loses that";
                s048_a_get_into_a_bad_frame_leaves_the_page:
                    "a get into a bad frame is EFAULT and leaves the page";
                s049_anothers_frame_is_efault: "another domain's frame is a bad frame";
                s050_what_is_not_ram_is_efault: "so is what is not RAM; what is, is good";
                s051_a_read_only_frame_is_efault: "so is a frame that is not writable";
                s052_offsets_and_length_are_not_looked_at: "offsets and length are ignored";
                s053_persistent_pages_survive_ephemeral_pressure: "persistent pages survive ephemeral ones";
                s054_without_room_what_is_there_still_works:
                    "without room new names are ENOMEM, and everything else works";
                s055_metadata_costs_what_it_costs: "metadata costs exactly this much";
                s056_a_flush_makes_room_for_one: "a flush makes room for one";
                s057_a_lowered_limit: "below its use, a limit makes the second put of a name lose it";
                s058_after_enospc_the_page_is_gone: "after ENOSPC the page is gone";
                s059_a_pre_check_that_fails_touches_nothing:
                    "a put that fails at its first check leaves the old page";
                s060_a_new_page_that_failed_is_not_there:
                    "a new page that failed is not there, and costs nothing";
                s061_a_flush_after_a_failure_settles_it: "a flush after a failure settles it";
                s062_a_dead_domains_pages_are_given_back: "a dead domain's pages go to the host";
                s063_an_empty_pool_says_so: "a get from an ephemeral pool without pages is EEMPTY";
                s064_a_get_takes_the_page: "a get takes the page";
                s065_the_second_get_says_whether_there_are_others:
                    "a second get says whether there are others";
                s066_the_last_put_counts: "the last put counts";
                s067_put_and_get_again: "put, get, put, get";
                s068_a_get_leaves_others: "a get leaves other pages";
                s069_a_bad_frame_loses_what_was_there: "a put from a bad frame loses the old page";
                s070_a_get_into_a_bad_frame: "a get into a bad frame loses the page";
                s071_the_domains_limit_does_not_count: "ephemeral pages are nobody's";
                s072_a_miss_lasts_until_a_put: "a miss lasts until the next put";
                s073_the_oldest_goes_first_whose_ever_it_is: "the oldest page goes first, whose ever it is";
                s074_putting_again_makes_no_younger: "a second put does not make a page younger";
                s075_what_was_evicted_never_comes_back: "what was evicted never comes back";
                s076_puts_go_on_while_there_is_something_to_evict:
                    "puts go on while something can be evicted, and the newest survive";
                s077_weights_are_the_wrong_way_round: "of two clients with equal weights the smaller pays";
                s078_without_weights_the_heavy_evict_the_light:
                    "without weights a heavy client evicts a light one";
                s079_persistent_puts_evict_everything_ephemeral:
                    "persistent puts evict all ephemeral pages, and then are ENOMEM";
                s080_who_is_not_authorised_shares_nothing: "who is not authorised gets a private pool";
                s081_all_ones_is_nobodys_name: "so does who asks for the name of all ones";
                s082_members_see_the_same_pages: "members of a shared pool see the same pages";
                s083_members_replace_each_others_pages: "and replace each other's";
                s084_members_flush_each_others_pages: "and flush each other's";
                s085_one_domain_may_join_twice: "a domain may join twice";
                s086_a_get_makes_younger: "a get makes a shared page younger";
                s087_there_are_sixteen_shared_pools: "a host has sixteen shared pools";
                s088_a_guest_that_leaves: "a member that leaves takes the objects that it read last";
                s089_the_owner_that_leaves: "an owner that leaves takes those that nobody else read";
                s090_after_a_leave_nothing_is_evicted: "after that nothing of the pool is evicted";
                s091_the_last_to_leave_takes_all: "the last member takes all";
                s092_deauthorising_does_not_expel: "deauthorising expels nobody, and lets nobody in";
                s093_the_owners_freeze_counts: "the owner's freeze counts";
                s094_sixteen_names_can_be_authorised: "a client is authorised for sixteen names";
                s095_who_is_no_client_cannot_be_frozen: "who is no client cannot be frozen";
                s096_frozen_no_new_names: "a frozen client can store no new names";
                s097_frozen_old_names_are_replaced: "but replace old ones";
                s098_frozen_gets_work: "and get";
                s099_frozen_flushes_work_and_say_no: "and flush, which answers EFROZEN";
                s100_frozen_pools_come_and_go: "and make and destroy pools";
                s101_thawed_puts_work: "thawed, it can store again";
                s102_freezing_all_freezes_those_there_are: "freezing all is freezing those that there are";
                s103_migrating_pages_are_not_replaced:
                    "while a client is migrated, a second put of a name loses it, which is reported";
                s104_destroying_while_migrating:
                    "a pool that is destroyed then stays charged until the domain is gone";
                s105_enumeration_omits_the_oldest: "saving omits the oldest page of a pool";
                s106_restoring_pages: "a page that is not compressed cannot be restored";
                s107_restoring_needs_a_new_client: "restoring needs a domain, and no client";
                s108_a_slot_is_restored_once: "a slot is restored once";
                s109_only_ephemeral_pages_are_freeable: "only ephemeral pages can be given back";
                s110_the_free_list_goes_to_the_host: "the free list goes to the host on demand";
                s111_controls_that_are_none: "bad controls are refused";
                s112_compression_does_not_show: "compression does not show in the data";
                s119_a_repeated_request_does_no_harm: "a repeated request does no harm";
                s120_after_a_restart_pages_are_lost_not_missed: "after a restart pages are lost, not missed";
            }
        }
    };
}

macro_rules! list {
    ($($area:ident { $($name:ident $([$leaks:literal])?: $fact:literal;)* })*) => {
        /// How many cases there are.
        pub const COUNT: usize = [$($(stringify!($name)),*),*].len();

        /// Every case, for an environment.
        #[must_use]
        pub fn cases<E: Env>() -> [Case<E>; COUNT] {
            [$($(Case {
                id: concat!(stringify!($area), ".", stringify!($name)),
                fact: $fact,
                leaks: Frames::new(0 $(+ $leaks)?),
                run: $area::$name::<E>,
            }),*),*]
        }
    };
}

for_each_case!(list);
